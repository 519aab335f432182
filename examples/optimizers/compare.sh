#!/usr/bin/env bash
# Compares update rules as they should be compared: every rule with its own best learning rate and weight decay, and only
# at the end of training. Goes on where an earlier call was stopped.
#
#   examples/optimizers/compare.sh --strata PROGRAM --data TEXT
#
#   --size small|medium   which run file; default small
#   --rules "A B"         default: adamw muon soap galore
#   --rates V1,V2,...     learning rates; default 1e-3,2e-3,4e-3,8e-3,1.6e-2,3.2e-2
#   --decays V1,V2,...    weight decays, tried at the best rate; default 0,0.1,0.3
#   --jobs N              runs at a time; default 2
#   --out DIR             default runs/optimizers-SIZE
#   -- --KEY=VALUE        what follows goes to every run, for example -- --train.steps=2000 --eval.interval=2000
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
strata= data= size=small rules="adamw muon soap galore" rates=1e-3,2e-3,4e-3,8e-3,1.6e-2,3.2e-2 decays=0,0.1,0.3 jobs=2 out=
while [ $# -gt 0 ]; do
  case "$1" in
    --strata | --data | --size | --rules | --rates | --decays | --jobs | --out)
      declare "${1#--}=${2:?$1 needs a value}"
      shift 2
      ;;
    --)
      shift
      break
      ;;
    -h | --help)
      sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *)
      echo "compare: unknown argument $1, allowed: --strata, --data, --size, --rules, --rates, --decays, --jobs, --out, -- KEYS" >&2
      exit 2
      ;;
  esac
done
[ -x "$strata" ] || { echo "compare: --strata: got \"$strata\", allowed: the strata program" >&2; exit 2; }
[ -r "$data" ] || { echo "compare: --data: got \"$data\", allowed: a text" >&2; exit 2; }
[ -r "$here/$size.ini" ] || { echo "compare: --size: got \"$size\", allowed: small, medium" >&2; exit 2; }
out=${out:-runs/optimizers-$size}

# GaLore projects to a quarter of the width, as its authors do; other rules have no keys of their own here.
keys_of() {
  local width
  width=$(sed -n 's/^hidden_size = //p' "$here/$size.ini")
  if [ "$1" = galore ]; then echo "--optim.rank=$((width / 4))"; fi
}
# "- best: lr=4e-3, valid loss 2.1" of a sweep over one key
best_of() { sed -n 's/^- best: [a-z_]*=\([^,]*\),.*/\1/p' "$1/sweep.md"; }

for rule in $rules; do
  echo "== $rule: learning rates"
  # shellcheck disable=SC2046
  "$strata" sweep "$here/$size.ini" --out "$out/$rule-rates" --set "optim.lr=$rates" --jobs "$jobs" \
    "--optim.name=$rule" $(keys_of "$rule") "--data.path=$data" "$@"
  rate=$(best_of "$out/$rule-rates")
  if [ -z "$rate" ]; then
    echo "compare: no run of $rule ended well, see $out/$rule-rates/sweep.md" >&2
    continue
  fi
  echo "== $rule at $rate: weight decays"
  # shellcheck disable=SC2046
  "$strata" sweep "$here/$size.ini" --out "$out/$rule-decays" --set "optim.weight_decay=$decays" --jobs "$jobs" \
    "--optim.name=$rule" "--optim.lr=$rate" $(keys_of "$rule") "--data.path=$data" "$@"
done

echo "== at the end of training"
{
  echo "| rule | lr | weight decay | validation loss | tokens/s |"
  echo "|---|---|---|---|---|"
  for rule in $rules; do
    [ -r "$out/$rule-decays/sweep.md" ] || continue
    # The first row of the table is the best: | decay | valid | train | tokens/s | time | state |
    sed -n 3p "$out/$rule-decays/sweep.md" | awk -F'|' -v rule="$rule" -v rate="$(best_of "$out/$rule-rates")" \
      '{printf "| %s | %s |%s|%s|%s|\n", rule, rate, $2, $3, $5}'
  done
} | tee "$out/best.md"
echo
echo "What lies at the end of its range is not tuned yet:"
grep "extend it" "$out"/*/sweep.md || echo "nothing does"
