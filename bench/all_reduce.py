#!/usr/bin/env python3
"""Runs all_reduce_bench in several launches and prints medians over launches (both sides are bimodal per launch).

  bench/all_reduce.py BUILD_DIR [--launches 5] [--ranks 2] [--seconds 0.3]
"""
import argparse
import json
import os
import statistics
import subprocess
import sys


def launch(program, ranks, seconds):
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    if os.geteuid() == 0:
        environment.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    command = ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none", program, str(seconds)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True)
    if output.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {output.returncode}:\n{output.stderr}")
    return [json.loads(line) for line in output.stdout.splitlines() if line.startswith("{")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.3)
    options = parser.parse_args()
    program = os.path.join(options.build, "bin", "all_reduce_bench")
    rows = {}
    for _ in range(options.launches):
        for row in launch(program, options.ranks, options.seconds):
            rows.setdefault(row["kib"], []).append(row)
    print(f"{'KiB':>6} {'ours us':>10} {'bounced us':>10} {'MPI us':>10} {'ratio':>7} {'bounced':>8}  ratios of the launches")
    for kib, launches in sorted(rows.items()):
        ours, bounced, mpi = (statistics.median(r[key] for r in launches)
                              for key in ("ours_us", "ours_bounced_us", "mpi_us"))
        each = " ".join(f"{r['ratio']:.1f}" for r in launches)
        print(f"{kib:>6} {ours:>10.1f} {bounced:>10.1f} {mpi:>10.1f} {mpi / ours:>7.2f} {mpi / bounced:>8.2f}  {each}")


if __name__ == "__main__":
    main()
