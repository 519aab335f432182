#!/usr/bin/env bash
# Guessing a missing byte: Hydra, which sees both sides, against a causal model of the same size and training, which sees what
# comes before. Trains both on two ranks, evaluates both on the same part of the text, fills the prompt of run.ini.
#
#   examples/hydra/infilling.sh STRATA TEXT FOLDER [--KEY=VALUE ...]     keys go to all commands
#
# Prints the two losses in nats per guessed byte, and fails when Hydra's is not the smaller.
set -euo pipefail
[ $# -ge 3 ] || {
  sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
  exit 2
}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
strata=$(realpath -- "$1")
text=$(realpath -- "$2")
out=$(realpath -m -- "$3")
shift 3
launch=(mpirun -n 2 --oversubscribe --bind-to none)
if [ "$(id -u)" -eq 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi

loss_of() { sed -n 's/.*"loss": *\([0-9.eE+-]*\).*/\1/p' "$1" | tail -n 1; }
for kind in run causal; do
  keys=("--data.path=$text" "--run.dir=$out/$kind" "$@")
  "${launch[@]}" "$strata" train "$here/$kind.ini" "${keys[@]}"
  "$strata" eval "$here/$kind.ini" "${keys[@]}" --eval.rows=0 --json >"$out/$kind.json"
done
"$strata" sample "$here/run.ini" "--data.path=$text" "--run.dir=$out/run" "$@"
both=$(loss_of "$out/run.json")
left=$(loss_of "$out/causal.json")
printf 'nats per guessed byte: hydra, both sides %s; llama, left side %s\n' "$both" "$left"
awk -v a="$both" -v b="$left" 'BEGIN { exit !(a > 0 && a < b) }'
