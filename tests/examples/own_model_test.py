#!/usr/bin/env python3
"""Trains the model of examples/own_model/ for a few steps with its own program, on one process and in the layouts below, in
fp64: the losses and gradient norms must agree, and fall. Then the program's other commands are asked for the family, and
the table of cuts is compared with the one that the page shows.

    own_model_test.py PROGRAM --run-file RUN.ini --text FILE --page docs/own-model.md --work DIR --mpirun MPIRUN
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys

# name, ranks, keys
LAYOUTS = [
    ("dp2-tp2", 4, ["--plan.tp=2"]),
    ("tp4", 4, ["--plan.tp=4", "--plan.recompute=full"]),
    ("pp2", 2, ["--plan.pp=2", "--plan.tp=1", "--plan.microbatches=2"]),
    ("tp3", 3, ["--plan.tp=3"]),  # four heads: every rank computes the regions in full
]
SMALL = ["--model.hidden_size=48", "--model.intermediate_size=96", "--model.num_hidden_layers=2",
         "--data.sequence_length=64", "--train.steps=6", "--train.dtype=fp64", "--train.vocabulary_unit=16", "--sched.warmup=2",
         "--eval.interval=0", "--ckpt.interval=0", "--runtime.threads=1", "--optim.lr=0.01"]


def run(*words):
    result = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}")
    return result.stdout


def train(options, name, launcher, keys):
    folder = options.work / name
    run(*launcher, options.program, "train", options.run_file, f"--data.path={options.text}", f"--run.dir={folder}", *SMALL, *keys)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("--run-file", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--page", required=True, type=pathlib.Path)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--mpirun", required=True)
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)

    serial = train(options, "serial", [], ["--plan.tp=1"])
    losses = [record["loss"] for record in serial]
    problems = []
    if len(losses) != 6 or not losses[-1] < losses[0] - 0.2:
        problems.append(f"the losses of one process do not fall: {losses}")
    for name, ranks, keys in LAYOUTS:
        records = train(options, name, [options.mpirun, "-n", str(ranks), "--oversubscribe", "--bind-to", "none"], keys)
        if len(records) != len(serial):
            problems.append(f"{name}: {len(records)} steps, one process has {len(serial)}")
        for one, other in zip(serial, records):
            for key in ("loss", "grad_norm"):
                if abs(one[key] - other[key]) > 1e-9 * abs(one[key]):
                    problems.append(f"{name} step {other['step']}: {key} {other[key]!r}, one process has {one[key]!r}")
    if "initializer_range" not in run(options.program, "config", "schema").split("model.name = own")[1].split("model.name")[0]:
        problems.append("config schema does not show the family's keys")
    evaluation = run(options.program, "eval", options.work / "serial" / "config.ini", "--json", "--eval.rows=1",
                     "--data.valid_fraction=0.1")
    if not json.loads(evaluation)["loss"] > 0:
        problems.append(f"eval says {evaluation}")
    shown = re.search(r"```text\n(.*?)```", options.page.read_text(), re.S).group(1)
    check = run(options.program, "config", "check", options.run_file, f"--data.path={options.text}")
    if shown not in check:
        problems.append(f"{options.page} shows another table of cuts than config check:\n{check}")
    for problem in problems:
        print(problem)
    print(f"own_model_test: {len(LAYOUTS)} layouts, losses {losses[0]:.4f} to {losses[-1]:.4f}, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
