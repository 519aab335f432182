#!/bin/sh
# Our updates and other programs' in turns, and the ratios of their medians: bench/optimizers.cpp and
# bench/peer_optimizers.py. On a machine that does other things too, the ratio of processor times with one thread is
# the one to believe.
#
#   optimizers.sh PROGRAM PYTHON [--layers=N] [--threads=N] [--steps=N]      (PYTHON has torch and pytorch_optimizer)
#   ROUNDS=3 CASES="adamw:adamw muon:muon" optimizers.sh build/bin/optimizers python3 --layers=1 --threads=1
set -eu
program=$1 python=$2
shift 2
here=$(dirname "$0")
results=$(mktemp)
trap 'rm -f "$results"' EXIT
# ours:theirs
for pair in ${CASES:-adamw:adamw muon:muon muon:muon-fp32 muon-bf16:muon soap:soap soap-refresh:soap-refresh soap-spread:soap-refresh \
    galore-refresh:galore-refresh galore-randomized:galore-refresh}; do
  for round in $(seq "${ROUNDS:-3}"); do
    echo "$pair ours $("$program" --case="${pair%%:*}" "$@")" >>"$results"
    echo "$pair theirs $("$python" "$here/peer_optimizers.py" --case="${pair##*:}" "$@")" >>"$results"
  done
done
"$python" - "$results" <<'END'
import collections, json, statistics, sys
times = collections.defaultdict(lambda: collections.defaultdict(list))
for line in open(sys.argv[1]):
    pair, whose, text = line.split(" ", 2)
    result = json.loads(text)
    for key in ("ms", "cpu_ms"):
        times[pair][whose, key].append(result[key])
print(f"{'case (ours:theirs)':32} {'ms':>9} {'theirs':>9} {'ratio':>6} {'cpu ms':>9} {'theirs':>9} {'ratio':>6}")
for pair, t in times.items():
    m = {k: statistics.median(v) for k, v in t.items()}
    row = [f"{pair:32}"]
    for key in ("ms", "cpu_ms"):
        row.append(f"{m['ours', key]:9.1f} {m['theirs', key]:9.1f} {m['theirs', key] / m['ours', key]:6.2f}")
    print(" ".join(row))
END
