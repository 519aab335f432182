"""Whole runs in layouts with pipeline stages, ZeRO and cut tokens: training, evaluating, sampling, saving, resuming, moving
checkpoints, and what is left behind when a stage dies or stands still.

usage: run_layout_cases.py --strata BINARY --mpirun MPIRUN --source REPOSITORY [--only TEXT]
"""
import os
import re
import signal
import struct
import sys
import time

import broken_files
from harness import judge
from run_mpi_cases import CONSTANT, ENDLESS, differing_curves, main

# name: ranks, keys
LAYOUTS = {
    "pp2": (2, ["--plan.pp=2", "--plan.microbatches=2"]),
    "pp2_dp2_zero3": (4, ["--plan.pp=2", "--plan.zero=3", "--plan.microbatches=2"]),
    "tp2_sp": (2, ["--plan.tp=2", "--plan.sequence_parallel=true"]),
}
MODEL = ["--model.num_hidden_layers=2", "--train.batch=8", "--runtime.threads=1", "--data.valid_fraction=0.1"]
TRAIN = ["train", "run.ini", *MODEL]


def evaluations(runs, run):
    return [(m["step"], m["eval_loss"], m["eval_accuracy"]) for m in runs.metrics(run) if "eval_loss" in m]


def samples(text):
    return re.findall(r"sample at step \d+: .*", text)


def training_evaluating_sampling(runs):
    """Every layout has the losses, evaluations and samples of one process, during training and from its checkpoint."""
    wrong = []
    fp64 = [*MODEL, "--train.dtype=fp64"]
    keys = [*fp64, "--train.steps=8", "--eval.interval=4", "--eval.rows=6", "--sample.interval=4", "--sample.tokens=12",
            "--sample.prompt=the ", "--log.level=info"]
    code, text = runs.run((1, ["train", "run.ini", *keys, "--run.dir=alone"]))
    wrong.append(judge(code, text, 0, ["sample at step 8: the "]))
    evaluation = runs.run((1, ["eval", "run.ini", *fp64, "--run.dir=alone", "--eval.rows=5", "--json"]))
    generated = runs.run((1, ["sample", "run.ini", *fp64, "--run.dir=alone", "--sample.tokens=9", "--sample.prompt=fox"]))
    wrong += [judge(*evaluation, 0, ['"step":8']), judge(*generated, 0, ["fox"])]
    for name, (ranks, plan) in LAYOUTS.items():
        code, here = runs.run((ranks, ["train", "run.ini", *keys, f"--run.dir={name}", *plan]))
        wrong.append(judge(code, here, 0, []))
        wrong.append(differing_curves(runs.curve("alone"), runs.curve(name), 1e-9))
        wrong.append(differing_curves(evaluations(runs, "alone"), evaluations(runs, name), 1e-9))
        if samples(here) != samples(text):
            wrong.append(f"{name}: samples {samples(here)}, one process has {samples(text)}")
        again = runs.run((ranks, ["sample", "run.ini", *fp64, *plan, "--run.dir=alone", "--sample.tokens=9",
                                  "--sample.prompt=fox"]))
        if again != generated:
            wrong.append(f"{name}: sample gives {again}, one process {generated}")
        code, there = runs.run((ranks, ["eval", "run.ini", *fp64, *plan, "--run.dir=alone", "--eval.rows=5", "--json"]))
        numbers = [re.findall(r'"(?:loss|accuracy)":([0-9.]+)', out) for out in (evaluation[1], there)]
        if code != 0 or len(numbers[1]) != 2 or any(abs(float(a) - float(b)) > 1e-9 for a, b in zip(*numbers)):
            wrong.append(f"{name}: eval gives {there}, one process {evaluation[1]}")
    return wrong


def resuming(runs):
    """A run in two halves has the bits of one that was not interrupted, in the default precision."""
    wrong = []
    keys = [*TRAIN, *CONSTANT, "--train.dtype=bf16", "--ckpt.interval=4"]
    for name, (ranks, plan) in LAYOUTS.items():
        wrong.append(judge(*runs.run((ranks, [*keys, *plan, f"--run.dir={name}_halves", "--train.steps=4"])), 0, []))
        for run in (f"{name}_halves", f"{name}_whole"):
            wrong.append(judge(*runs.run((ranks, [*keys, *plan, f"--run.dir={run}", "--train.steps=8"])), 0, []))
        if len(runs.curve(f"{name}_whole")) != 8 or runs.curve(f"{name}_halves") != runs.curve(f"{name}_whole"):
            wrong.append(f"{name}: the curves differ")
        if runs.diff(f"{name}_halves", f"{name}_whole") != 0:
            wrong.append(f"{name}: the last checkpoints differ")
    return wrong


# One after the other.
CHAIN = [(2, ["--plan.zero=3"]), (2, ["--plan.pp=2", "--plan.microbatches=2"]), (2, ["--plan.tp=2"]),
         (4, ["--plan.pp=2", "--plan.zero=2", "--plan.microbatches=4"]), (1, [])]


def a_run_moves_through_layouts(runs):
    """Two steps in each layout make the run of one process."""
    keys = [*TRAIN, *CONSTANT, "--train.dtype=fp64", "--optim.audit=true"]
    wrong = [judge(*runs.run((1, [*keys, "--run.dir=stayed", f"--train.steps={2 * len(CHAIN)}"])), 0, [])]
    for number, (ranks, plan) in enumerate(CHAIN):
        wrong.append(judge(*runs.run((ranks, [*keys, *plan, "--run.dir=travelled", f"--train.steps={2 * number + 2}"])), 0, []))
    return [*wrong, differing_curves(runs.curve("stayed"), runs.curve("travelled"), 1e-9)]


def weights_move_bit_for_bit(runs):
    """With a learning rate of 0 every layout writes the weights that it read: fp32 masters of a bf16 run."""
    keys = [*TRAIN, *CONSTANT, "--train.dtype=bf16", "--run.dir=moved_bits", "--ckpt.keep_last=20"]
    wrong = [judge(*runs.run((4, [*keys, "--plan.pp=2", "--plan.zero=3", "--train.steps=3"])), 0, [])]
    for number, (ranks, plan) in enumerate(CHAIN):
        code, text = runs.run((ranks, [*keys, *plan, "--optim.lr=0", f"--train.steps={4 + number}"]))
        wrong.append(judge(code, text, 0, []))
    saved = runs.checkpoints("moved_bits")
    if len(saved) != len(CHAIN) + 1:
        wrong.append(f"checkpoints: {saved}")
    for name in saved[1:]:
        folder = os.path.join("moved_bits", "checkpoints")
        if runs.diff(os.path.join(folder, saved[0]), os.path.join(folder, name), options=()) != 0:
            wrong.append(f"weights of {name} are not those of {saved[0]}")
    return wrong


# Dropout, clipping at every step, tied embeddings; sizes that fill no vector register.
INVARIANT_RUN = """[data]
path = text.txt
sequence_length = 20
[train]
steps = 20
batch = 16
[model]
name = gpt2
n_embd = 24
n_inner = 52
n_layer = 2
n_head = 3
n_positions = 32
[optim]
lr = 0.01
max_grad_norm = 0.3
[sched]
name = constant
warmup = 2
[ckpt]
interval = 0
[runtime]
deterministic = invariant
[log]
level = warn
"""

# Two rows per rank and micro-batch in all of them.
INVARIANT_LAYOUTS = [
    ("alone", 1, ["--plan.microbatches=8"]),
    ("dp2", 2, ["--plan.microbatches=4"]),
    ("dp4_zero1", 4, ["--plan.microbatches=2", "--plan.zero=1"]),
    ("pp2", 2, ["--plan.microbatches=8", "--plan.pp=2"]),
    ("dp2_pp2_recompute", 4, ["--plan.microbatches=4", "--plan.pp=2", "--plan.recompute=full"]),
    ("pp2_interleaved", 2, ["--plan.microbatches=8", "--plan.pp=2", "--plan.chunks=2", "--plan.schedule=interleaved"]),
    ("pp2_split_backward", 2, ["--plan.microbatches=8", "--plan.pp=2", "--plan.schedule=zb-h1"]),
    ("dp4_zero1_halves", 4, ["--plan.microbatches=2", "--plan.zero=1", "--plan.shards=2"]),
    ("dp2_pp2_zero1", 4, ["--plan.microbatches=4", "--plan.pp=2", "--plan.zero=1", "--plan.recompute=selective"]),
]


def invariant_runs_have_the_same_bits(runs):
    """runtime.deterministic = invariant: losses, norms, weights and optimizer state of 20 steps, in every layout, and of a run
    that moves through the layouts."""
    broken_files.write(runs.folder, "invariant.ini", INVARIANT_RUN)
    wrong = []
    for dtype, layouts in [("bf16", INVARIANT_LAYOUTS), ("fp32", INVARIANT_LAYOUTS[0::4])]:
        keys = ["train", "invariant.ini", f"--train.dtype={dtype}"]
        first = f"invariant_{dtype}_{layouts[0][0]}"
        for name, ranks, plan in layouts:
            run = f"invariant_{dtype}_{name}"
            wrong.append(judge(*runs.run((ranks, [*keys, *plan, f"--run.dir={run}"])), 0, []))
            wrong += differing_bits(runs, first, run)
    first, keys = "invariant_bf16_alone", ["train", "invariant.ini", "--train.dtype=bf16", "--run.dir=invariant_moving"]
    for number, (name, ranks, plan) in enumerate(INVARIANT_LAYOUTS[1:6]):
        wrong.append(judge(*runs.run((ranks, [*keys, *plan, f"--train.steps={4 * number + 4}"])), 0, []))
    wrong += differing_bits(runs, first, "invariant_moving")
    if not all(norm > 0.3 for step, loss, norm, rate in runs.curve(first)):
        wrong.append("the norm is not clipped at every step")
    code, text = runs.run((2, ["train", "invariant.ini", "--run.dir=refused", "--plan.zero=2", "--plan.microbatches=4"]))
    wrong.append(judge(code, text, 2, ["runtime.deterministic: got invariant, but zero is 2"]))
    code, text = runs.run((1, ["train", "invariant.ini", "--run.dir=refused", "--train.batch=12", "--plan.microbatches=3"]))
    wrong.append(judge(code, text, 2, ["runtime.deterministic: got invariant, but plan.microbatches is 3"]))
    return wrong


def differing_bits(runs, a, b):
    wrong = []
    if len(runs.curve(a)) != 20 or runs.curve(a) != runs.curve(b):
        wrong.append(f"{a} and {b}: {differing_curves(runs.curve(a), runs.curve(b), 0) or 'the norms differ'}")
    if runs.diff(a, b) != 0:
        wrong.append(f"the checkpoints of {a} and {b} differ")
    return wrong


def not_finite(runs):
    """A rate that makes numbers overflow, on two stages of two replicas: the first such step ends the run, or the third."""
    keys = ["train", "run.ini", *MODEL, "--plan.pp=2", "--plan.zero=3", "--plan.microbatches=2", "--optim.lr=1e30",
            "--sched.name=constant", "--sched.warmup=0", "--train.steps=9"]
    wrong = []
    for policy, steps, pieces in [("stop", 2, ["Step 2: the gradients of", "train.nonfinite = stop"]),
                                  ("skip", 4, ["Too many steps were skipped: the last, step 4, because the gradients",
                                               "step 2 was skipped: the gradients of"])]:
        code, text = runs.run((4, [*keys, f"--run.dir=overflow_{policy}", f"--train.nonfinite={policy}"]))
        wrong.append(judge(code, text, 6, [*pieces, "(first model.embed_tokens.weight, last ", "(samples 8 to 15)" if policy ==
                                           "stop" else "(samples 24 to 31)"]))
        if len(runs.metrics(f"overflow_{policy}")) != steps:
            wrong.append(f"{policy}: {len(runs.metrics(f'overflow_{policy}'))} steps")
    return wrong


def process_of(runs, run, rank):
    """Process number, from the rank's flight record."""
    with open(os.path.join(runs.folder, run, "flight", f"rank-{rank:05}.fr"), "rb") as file:
        return struct.unpack_from("<q", file.read(64), 24)[0]


CHANNEL = re.compile(r"(activations|gradients)\[\d->\d\]")
# Most of a step is spent between stages: many micro-batches, no comparison of sequences.
STAGES = ["train", "run.ini", "--model.num_hidden_layers=2", "--train.batch=32", "--plan.pp=2", "--plan.microbatches=8",
          "--runtime.threads=1", "--comm.check=off"]


def until_a_channel_is_named(what):
    """A signal can come between two steps, when no stage waits for another: what() is tried until a report names a channel."""
    for attempt in range(8):
        wrong, report = what(attempt)
        if wrong or CHANNEL.search(report):
            return wrong
    return [f"no report names a pipeline channel; the last one:\n{report}"]


def killed_stage_goes_on(runs):
    """SIGKILL to a rank of the last stage: 137, doctor says who waited for it and where, and the next start goes on bit for
    bit."""
    ranks, keys = 4, [*STAGES, *CONSTANT, "--plan.zero=3", "--ckpt.interval=5"]

    def kill(attempt):
        run = f"killed_stage_{attempt}"
        process = runs.start((ranks, [*keys, ENDLESS, f"--run.dir={run}"]))
        runs.wait_for_steps(run, 8, process)
        os.kill(process_of(runs, run, 3), signal.SIGKILL)
        text = process.communicate(timeout=60)[0].decode(errors="replace")
        code, report = runs.alone(["doctor", run])
        return [w for w in (judge(process.returncode, text, 128 + signal.SIGKILL, []), judge(code, report, 0, ["rank 3"])) if w], report

    wrong = until_a_channel_is_named(kill)
    steps = f"--train.steps={len(runs.metrics('killed_stage_0')) + 5}"
    for run in ("killed_stage_0", "unhurt_stage"):
        wrong.append(judge(*runs.run((ranks, [*keys, steps, f"--run.dir={run}"])), 0, []))
    if runs.curve("unhurt_stage") != runs.curve("killed_stage_0"):
        wrong.append("the curves differ")
    if runs.diff("unhurt_stage", "killed_stage_0") != 0:
        wrong.append("the last checkpoints differ")
    return wrong


def hanging_stage_is_reported(runs):
    """A stage that stands still: 7 within seconds, and a report that names it and the channel on which others wait."""
    def stop(attempt):
        run = f"hung_stage_{attempt}"
        process = runs.start((2, [*STAGES, ENDLESS, "--ckpt.interval=0", f"--run.dir={run}", "--runtime.step_timeout_s=2"]))
        runs.wait_for_steps(run, 5, process)
        os.kill(process_of(runs, run, 1), signal.SIGSTOP)
        begin = time.monotonic()
        text = process.communicate(timeout=60)[0].decode(errors="replace")
        took = time.monotonic() - begin
        with open(os.path.join(runs.folder, run, "hang", "report.txt"), encoding="utf-8") as file:
            report = file.read()
        return [w for w in (judge(process.returncode, text, 7, []), judge(0, report, 0, ["culprit: rank 1", "waiting: rank 0"]),
                            "" if took < 15 else f"it took {took:.1f} s") if w], report

    return until_a_channel_is_named(stop)


CASES = [training_evaluating_sampling, resuming, a_run_moves_through_layouts, weights_move_bit_for_bit,
         invariant_runs_have_the_same_bits, not_finite, killed_stage_goes_on,
         hanging_stage_is_reported]

if __name__ == "__main__":
    sys.exit(main(CASES))
