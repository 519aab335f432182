#!/usr/bin/env bash
# How many steps Muon needs for the loss that AdamW ends at. Both are tuned on a grid of learning rates and weight decays,
# for each seed anew; every run ends its own schedule, so that no loss is taken from the middle of one. Goes on where an
# earlier call was stopped.
#
#   examples/optimizers/fewer_steps.sh --strata PROGRAM --data TEXT
#
#   --size small|medium   which run file; default small
#   --steps N             of AdamW; default 500
#   --parts "P1 P2"       of AdamW's steps that Muon gets, in percent; default "75 60 50"
#   --seeds "S1 S2"       default "1 2"
#   --adamw-rates V1,V2   default 4e-3,8e-3,1.6e-2
#   --muon-rates V1,V2    default 8e-3,1.6e-2,3.2e-2
#   --decays V1,V2        default 0.1,0.3,1
#   --jobs N              runs at a time; default 2
#   --out DIR             default runs/fewer-steps-SIZE
#   -- --KEY=VALUE        what follows goes to every run
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
strata= data= size=small steps=500 parts="75 60 50" seeds="1 2" jobs=2 out=
adamw_rates=4e-3,8e-3,1.6e-2 muon_rates=8e-3,1.6e-2,3.2e-2 decays=0.1,0.3,1
while [ $# -gt 0 ]; do
  case "$1" in
    --strata | --data | --size | --steps | --parts | --seeds | --adamw-rates | --muon-rates | --decays | --jobs | --out)
      name=${1#--}
      declare "${name//-/_}=${2:?$1 needs a value}"
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
      echo "fewer_steps: unknown argument $1; --help tells what there is" >&2
      exit 2
      ;;
  esac
done
[ -x "$strata" ] || { echo "fewer_steps: --strata: got \"$strata\", allowed: the strata program" >&2; exit 2; }
[ -r "$data" ] || { echo "fewer_steps: --data: got \"$data\", allowed: a text" >&2; exit 2; }
[ -r "$here/$size.ini" ] || { echo "fewer_steps: --size: got \"$size\", allowed: small, medium" >&2; exit 2; }
out=${out:-runs/fewer-steps-$size}
more=("$@")
every=$(((steps + 19) / 20))  # of the curves

# tune RULE RATES STEPS SEED DIR: prints "RATE DECAY LOSS" of the best
tune() {
  "$strata" sweep "$here/$size.ini" --out "$5" --set "optim.lr=$2" --set "optim.weight_decay=$decays" --jobs "$jobs" \
    "--optim.name=$1" "--train.steps=$3" "--eval.interval=$3" "--sched.warmup=$(($3 / 10))" "--train.seed=$4" \
    "--data.path=$data" "${more[@]}" >"$5.log" 2>&1 || { tail -n 5 "$5.log" >&2; exit 1; }
  sed -n 's/^- best: lr=\([^,]*\),weight_decay=\([^,]*\), valid loss \([0-9.]*\)/\1 \2 \3/p' "$5/sweep.md"
  grep -h "extend it" "$5/sweep.md" | sed "s|^|$1 at $3 steps, seed $4: |" >&2 || true
}
# curve RULE RATE DECAY STEPS SEED DIR: validation losses on the way
curve() {
  "$strata" train "$here/$size.ini" "--run.dir=$6" "--optim.name=$1" "--optim.lr=$2" "--optim.weight_decay=$3" \
    "--train.steps=$4" "--eval.interval=$every" "--sched.warmup=$(($4 / 10))" "--train.seed=$5" "--data.path=$data" \
    --log.level=warn --runtime.threads=1 "${more[@]}"
  sed -n 's/^{"step":\([0-9]*\),.*"eval_loss":\([0-9.]*\),.*/\1 \2/p' "$6/metrics.jsonl" >"$6.curve"
}

mkdir -p "$out"
rm -f "$out/table.md"
for seed in $seeds; do
  read -r rate decay loss <<<"$(tune adamw "$adamw_rates" "$steps" "$seed" "$out/adamw-$seed")"
  [ -n "$loss" ] || { echo "fewer_steps: no run of adamw ended well, see $out/adamw-$seed.log" >&2; exit 1; }
  echo "| $seed | adamw | $steps | $rate | $decay | $loss | |" >>"$out/table.md"
  curve adamw "$rate" "$decay" "$steps" "$seed" "$out/curve-adamw-$seed"
  for part in $parts; do
    few=$((steps * part / 100))
    read -r rate decay reached <<<"$(tune muon "$muon_rates" "$few" "$seed" "$out/muon-$few-$seed")"
    [ -n "$reached" ] || { echo "fewer_steps: no run of muon ended well, see $out/muon-$few-$seed.log" >&2; exit 1; }
    answer=$(awk -v a="$reached" -v b="$loss" 'BEGIN {print (a <= b) ? "yes" : "no"}')
    echo "| $seed | muon | $few | $rate | $decay | $reached | $answer |" >>"$out/table.md"
    if [ "$part" = "${parts%% *}" ]; then curve muon "$rate" "$decay" "$few" "$seed" "$out/curve-muon-$seed"; fi
  done
done
echo "| seed | rule | steps | lr | weight decay | validation loss | reaches AdamW's |"
echo "|---|---|---|---|---|---|---|"
cat "$out/table.md"
for seed in $seeds; do
  echo
  echo "Seed $seed, validation loss on the way:"
  echo
  echo "| step | adamw, $steps steps | muon, $((steps * ${parts%% *} / 100)) steps |"
  echo "|---|---|---|"
  awk -v every="$every" 'NR == FNR {a[$1] = $2; next} {m[$1] = $2}
       END {for (s = every; s in a || s in m; s += every) printf "| %d | %s | %s |\n", s, (s in a) ? substr(a[s], 1, 6) : "", (s in m) ? substr(m[s], 1, 6) : ""}' \
    "$out/curve-adamw-$seed.curve" "$out/curve-muon-$seed.curve"
done
