"""Whole runs under mpirun: training on two ranks, requests by signal, resuming, and what ranks refuse together.

usage: run_mpi_cases.py --strata BINARY --mpirun MPIRUN --source REPOSITORY [--only TEXT]
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import broken_files
from harness import judge


class Runs:
    """Starts the binary under mpirun in a folder of small files."""

    def __init__(self, options, folder):
        self.binary = os.path.abspath(options.strata)
        self.mpirun = options.mpirun
        self.source = os.path.abspath(options.source)
        self.folder = folder
        self.environment = dict(os.environ, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1",
                                OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_mpi_yield_when_idle="1",
                                OMPI_MCA_btl_base_warn_component_unused="0")

    def command(self, *parts):
        """parts: argument lists, each for some ranks: (2, ["train", ...])."""
        words = [self.mpirun, "--oversubscribe", "--bind-to", "none"]
        for index, (ranks, arguments) in enumerate(parts):
            words += ([":"] if index else []) + ["-n", str(ranks), self.binary, *arguments]
        return words

    def run(self, *parts, timeout=120):
        done = subprocess.run(self.command(*parts), cwd=self.folder, env=self.environment, timeout=timeout,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        return done.returncode, done.stdout.decode(errors="replace")

    def run_in_two_folders(self, arguments, elsewhere):
        """Two ranks, the second one in another folder."""
        words = [*self.command((1, arguments)), ":", "-n", "1", "-wdir", elsewhere, self.binary, *arguments]
        done = subprocess.run(words, cwd=self.folder, env=self.environment, timeout=120, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        return done.returncode, done.stdout.decode(errors="replace")

    def start(self, *parts):
        return subprocess.Popen(self.command(*parts), cwd=self.folder, env=self.environment, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT)

    def metrics(self, run):
        path = os.path.join(self.folder, run, "metrics.jsonl")
        if not os.path.exists(path):
            return []
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file.read().split("\n")[:-1]]

    def curve(self, run):
        return [(m["step"], m["loss"], m["grad_norm"], m["lr"]) for m in self.metrics(run)]

    def wait_for(self, what, process):
        """Until what() is true or the process has ended; the run is given so many steps that it does not end first."""
        for _ in range(2400):
            if what() or process.poll() is not None:
                return
            time.sleep(0.025)

    def wait_for_steps(self, run, count, process):
        """Until the run has done that many steps."""
        self.wait_for(lambda: len(self.metrics(run)) >= count, process)

    def checkpoints(self, run):
        """Committed ones, oldest first."""
        folder = os.path.join(self.folder, run, "checkpoints")
        found = sorted(os.listdir(folder)) if os.path.exists(folder) else []
        return [name for name in found if name.startswith("step-") and ".tmp" not in name]

    def alone(self, arguments):
        """The binary without mpirun."""
        done = subprocess.run([self.binary, *arguments], cwd=self.folder, timeout=120, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        return done.returncode, done.stdout.decode(errors="replace")

    def sweep(self, arguments):
        done = subprocess.run([self.binary, *arguments], cwd=self.folder, env=self.environment, timeout=120,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        return done.returncode, done.stdout.decode(errors="replace")

    def diff(self, a, b, options=("--optim",)):
        return self.alone(["ckpt", "diff", a, b, *options])[0]


def differing_curves(a, b, tolerance):
    if len(a) != len(b):
        return f"{len(a)} and {len(b)} steps"
    for x, y in zip(a, b):
        if abs(x[1] - y[1]) > tolerance * abs(x[1]) or x[0] != y[0]:
            return f"step {x[0]}: {x} and {y}"
    return ""


def layouts_agree(runs):
    """One rank, two replicas and two tensor parts train alike."""
    wrong = []
    base = ["train", "run.ini", "--train.dtype=fp64", "--train.steps=8"]
    for name, ranks, more in [("one", 1, []), ("dp", 2, []), ("tp", 2, ["--plan.tp=2", "--comm.check=each"])]:
        code, text = runs.run((ranks, [*base, f"--run.dir={name}", *more]))
        wrong.append(judge(code, text, 0, []))
    for name in ("dp", "tp"):
        wrong.append(differing_curves(runs.curve("one"), runs.curve(name), 1e-9))
    return wrong


def plan_files(runs):
    """A run by a plan file trains as one without, and its own plan.json is a plan file for it. Files that differ between
    ranks are noticed."""
    base = ["train", "run.ini", "--train.dtype=fp64", "--train.steps=8"]
    wrong = [judge(*runs.run((1, [*base, "--run.dir=unplanned"])), 0, []),
             judge(*runs.run((2, [*base, "--run.dir=planned", "--plan", "good-plan.json", "--log.level=info"])), 0,
                   ["plan: 2 ranks: 2 stages, dp 1, tp 1, zero 0; 2 micro-batches of 2 rows, 1f1b"]),
             differing_curves(runs.curve("unplanned"), runs.curve("planned"), 1e-9)]
    again = ["--plan", os.path.join("planned", "plan.json")]
    wrong.append(judge(*runs.run((2, [*base, "--run.dir=again", *again])), 0, []))
    if runs.curve("again") != runs.curve("planned"):
        wrong.append("the run by the run's plan.json differs")
    wrong.append(judge(*runs.run((2, [*base, "--run.dir=other", *again, "--model.num_attention_heads=1"])), 0, []))
    wrong.append(judge(*runs.run((2, [*base, "--run.dir=other", *again, "--model.hidden_size=32"])), 2,
                       ["model.hash: got", "the plan is for another one"]))
    wrong.append(judge(*runs.run((3, [*base, "--run.dir=other", *again])), 2, ["number of ranks: got 3, allowed: 2"]))
    wrong.append(judge(*runs.run((2, ["verify", os.path.join(runs.source, "tests", "golden", "llama-mha"), "--plan",
                                      "verify-plan.json", "--train.vocabulary_unit=1"])), 0, ["all within 1e-09"]))
    other = ["train", "run.ini", "--run.dir=differ_plan", "--plan"]
    wrong.append(judge(*runs.run((1, [*other, "good-plan.json"]), (1, [*other, "other-plan.json"])), 8,
                       ["plan.file differs between ranks"]))
    elsewhere = os.path.join(runs.folder, "elsewhere")
    broken_files.write_good_files(elsewhere)
    broken_files.write(elsewhere, "good-plan.json", broken_files.PLAN.replace('"m": 2', '"m": 4'))
    arguments = ["train", "run.ini", f"--run.dir={runs.folder}/differ_plan", "--plan", "good-plan.json"]
    wrong.append(judge(*runs.run_in_two_folders(arguments, elsewhere), 8,
                       ["the plan in good-plan.json differs between ranks"]))
    return wrong


def checkpoints_move_between_layouts(runs):
    """Half of the steps on two tensor parts, the rest on one rank."""
    base = ["train", "run.ini", "--train.dtype=fp64", "--ckpt.interval=4", "--sched.name=constant", "--sched.warmup=2"]
    whole = runs.run((1, [*base, "--run.dir=whole", "--train.steps=8"]))
    first = runs.run((2, [*base, "--run.dir=moved", "--train.steps=4", "--plan.tp=2"]))
    second = runs.run((1, [*base, "--run.dir=moved", "--train.steps=8"]))
    return [judge(*whole, 0, []), judge(*first, 0, []), judge(*second, 0, []),
            differing_curves(runs.curve("whole"), runs.curve("moved"), 1e-9)]


# Two blocks in two layouts, between an embedding and a head of yet others.
VERIFY_PLAN = """{"schema": "plan/1", "hardware": {"devices": 2}, "global": {"p": 1, "m": 2, "gbs": 4},
 "layers": [{"from": 0, "to": 0, "t": 2, "d": 1, "sp": true}, {"from": 1, "to": 1, "t": 1, "d": 2, "zero": 3}],
 "embed": {"t": 1, "d": 2}, "head": {"t": 2, "d": 1, "recompute": "full"}}
"""

# A run that is interrupted has far more steps to do than it will get to, so that a request never comes too late. The
# learning rate then must not depend on the number of steps.
ENDLESS = "--train.steps=100000"
CONSTANT = ["--sched.name=constant", "--sched.warmup=2"]


def preemption(runs):
    """SIGUSR1 to mpirun: saved, 75, and the next start ends up with the same bits."""
    base = ["train", "run.ini", "--plan.tp=2", "--ckpt.interval=0", *CONSTANT]
    process = runs.start((2, [*base, ENDLESS, "--run.dir=stopped"]))
    runs.wait_for_steps("stopped", 5, process)
    process.send_signal(signal.SIGUSR1)
    text = process.communicate(timeout=60)[0].decode(errors="replace")
    wrong = [judge(process.returncode, text, 75, [])]
    done = len(runs.metrics("stopped"))
    if done < 5 or runs.checkpoints("stopped") != [f"step-{done:012}"]:
        wrong.append(f"{done} steps were done when the run stopped; checkpoints: {runs.checkpoints('stopped')}")
    steps = f"--train.steps={done + 10}"
    wrong.append(judge(*runs.run((2, [*base, steps, "--run.dir=stopped"])), 0, []))
    wrong.append(judge(*runs.run((2, [*base, steps, "--run.dir=calm"])), 0, []))
    if runs.curve("calm") != runs.curve("stopped"):
        wrong.append("the curves differ")
    if runs.diff("calm", "stopped") != 0:
        wrong.append("the last checkpoints differ")
    return wrong


def save_and_go_on(runs):
    """SIGUSR2: a checkpoint in between, and the run goes on as if nothing had been."""
    base = ["train", "run.ini", "--ckpt.interval=0", *CONSTANT]
    process = runs.start((2, [*base, ENDLESS, "--run.dir=saved"]))
    runs.wait_for_steps("saved", 5, process)
    process.send_signal(signal.SIGUSR2)
    runs.wait_for(lambda: runs.checkpoints("saved"), process)
    between = len(runs.metrics("saved"))
    runs.wait_for_steps("saved", between + 5, process)
    process.send_signal(signal.SIGUSR1)
    text = process.communicate(timeout=60)[0].decode(errors="replace")
    done = len(runs.metrics("saved"))
    wrong = [judge(process.returncode, text, 75, []),
             judge(*runs.run((2, [*base, f"--train.steps={done}", "--run.dir=unsaved"])), 0, [])]
    if len(runs.checkpoints("saved")) != 2 or done < between + 5:
        wrong.append(f"checkpoints: {runs.checkpoints('saved')} after {done} steps")
    if runs.curve("saved") != runs.curve("unsaved"):
        wrong.append("the curves differ")
    return wrong


def termination(runs):
    """SIGTERM to one process: no save, 143 at once, the flight record and a last line are there."""
    arguments = ["train", "run.ini", "--run.dir=ended", ENDLESS, "--runtime.backend=self"]
    process = subprocess.Popen([runs.binary, *arguments], cwd=runs.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    runs.wait_for_steps("ended", 3, process)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=60)[0].decode(errors="replace")
    took = time.monotonic() - begin
    with open(os.path.join(runs.folder, "ended", "logs", "rank-0.log"), encoding="utf-8") as file:
        last = file.read().strip().split("\n")[-1]
    return [judge(process.returncode, text, 143, []), "" if "SIGTERM" in last else f"last line: {last}",
            "" if took < 5 else f"it took {took:.1f} s",
            "" if os.path.getsize(os.path.join(runs.folder, "ended", "flight", "rank-00000.fr")) > 65536 else "no record"]


def killed_run_goes_on(runs):
    """SIGKILL to a rank: the others end, and the next start goes on from the newest checkpoint bit for bit."""
    base = ["train", "run.ini", "--ckpt.interval=3", *CONSTANT]
    process = runs.start((2, [*base, ENDLESS, "--run.dir=killed"]))
    runs.wait_for_steps("killed", 8, process)
    with open(os.path.join(runs.folder, "killed", "lock"), encoding="utf-8") as file:
        rank0 = int(file.read().split()[1])
    os.kill(rank0, signal.SIGKILL)
    process.communicate(timeout=60)
    wrong = ["exit code 0 after a rank was killed"] if process.returncode == 0 else []
    steps = f"--train.steps={len(runs.metrics('killed')) + 10}"
    wrong.append(judge(*runs.run((2, [*base, steps, "--run.dir=killed"])), 0, []))
    wrong.append(judge(*runs.run((2, [*base, steps, "--run.dir=unhurt"])), 0, []))
    if runs.curve("unhurt") != runs.curve("killed"):
        wrong.append("the curves differ")
    if runs.diff("unhurt", "killed") != 0:
        wrong.append("the last checkpoints differ")
    return wrong


def hang_is_reported(runs):
    """A rank that stands still: the others end with 7 within seconds, and leave a report on every rank."""
    process = runs.start((2, ["train", "run.ini", "--run.dir=hung", ENDLESS, "--ckpt.interval=0",
                              "--runtime.step_timeout_s=2"]))
    runs.wait_for_steps("hung", 5, process)
    with open(os.path.join(runs.folder, "hung", "lock"), encoding="utf-8") as file:
        rank0 = int(file.read().split()[1])
    os.kill(rank0, signal.SIGSTOP)
    begin = time.monotonic()
    text = process.communicate(timeout=60)[0].decode(errors="replace")
    took = time.monotonic() - begin
    with open(os.path.join(runs.folder, "hung", "hang", "report.txt"), encoding="utf-8") as file:
        report = file.read()
    return [judge(process.returncode, text, 7, []), "" if "rank 0 (" in report and "rank 1 (" in report else f"report:\n{report}",
            "" if took < 15 else f"it took {took:.1f} s"]


def ranks_that_differ(runs):
    """Another learning rate, text or seed on one rank: 8, before anything is trained."""
    wrong = []
    for name, more, piece in [("lr", ["--optim.lr=0.5"], "optim.lr differs between ranks"),
                              ("text", ["--data.path=other.txt"], "data.path differs between ranks"),
                              ("seed", ["--train.seed=5"], "train.seed differs between ranks")]:
        arguments = ["train", "run.ini", f"--run.dir=differ_{name}"]
        wrong.append(judge(*runs.run((1, arguments), (1, [*arguments, *more])), 8, [piece, "rank 1 has"]))
    return wrong


def data_that_differ(runs):
    """The same path, other content for one rank: only the fingerprint can tell."""
    run = os.path.join(runs.folder, "differ_data")
    arguments = ["train", "run.ini", f"--run.dir={run}", "--data.path=text.txt"]
    broken_files.write(os.path.join(runs.folder, "elsewhere"), "run.ini", broken_files.RUN)
    broken_files.write(os.path.join(runs.folder, "elsewhere"), "text.txt", broken_files.TEXT.replace("quick", "swift"))
    return [judge(*runs.run_in_two_folders(arguments, os.path.join(runs.folder, "elsewhere")), 8,
                  ["data fingerprint differs between ranks"])]


def wrong_world(runs):
    """Numbers of ranks that no plan fits, and heads that cannot be cut."""
    return [judge(*runs.run((3, ["train", "run.ini", "--run.dir=w3", "--plan.tp=2"])), 2, ["nearest: 2, 4"]),
            judge(*runs.run((2, ["train", "run.ini", "--run.dir=w2", "--plan.tp=2", "--model.num_attention_heads=1"])), 2,
                  ["plan.layers"]),
            judge(*runs.run((2, ["train", "run.ini", "--run.dir=wb", "--train.batch=3"])), 2, ["3"])]


def configuration_errors_are_printed_once(runs):
    code, text = runs.run((2, ["train", "run.ini", "--optim.lr=x", "--run.dir=once"]))
    return [judge(code, text, 2, ["--optim.lr: got"]),
            "" if text.count("--optim.lr: got") == 1 else f"printed {text.count('--optim.lr: got')} times:\n{text}"]


def sweeps_go_on(runs):
    """SIGUSR1 to a sweep of two points of two ranks: both are saved, and the same command goes on with them, and afterwards
    runs nothing; the points end with the bits of runs that were never interrupted."""
    def words(steps):
        return ["sweep", "run.ini", "--out=swept", "--set", "optim.lr=1e-3,1e-2", "--ranks=2", "--jobs=2", "--runtime.threads=1",
                "--launcher", f"{runs.mpirun} --oversubscribe --bind-to none", "--ckpt.interval=0", *CONSTANT, steps]
    process = subprocess.Popen([runs.binary, *words("--train.steps=100000")], cwd=runs.folder, env=runs.environment,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    points = ["swept/lr=1e-3", "swept/lr=1e-2"]
    for point in points:
        runs.wait_for_steps(point, 3, process)
    process.send_signal(signal.SIGUSR1)
    text = process.communicate(timeout=60)[0].decode(errors="replace")
    wrong = [judge(process.returncode, text, 75, ["lr=1e-3: not finished", "lr=1e-2: not finished"])]
    done = max(len(runs.metrics(point)) for point in points)
    if done >= 100000 or not all(runs.checkpoints(point) for point in points):
        wrong.append(f"{done} steps, checkpoints: {[runs.checkpoints(point) for point in points]}")
    wrong.append(judge(*runs.sweep(words("--train.steps=99999")), 2, ["was trained otherwise: train.steps was 100000 and is 99999"]))
    # Shorter from here on: what an earlier sweep of that length would have left.
    steps = done + 10
    for point in points:
        path = os.path.join(runs.folder, point, "config.ini")
        with open(path, encoding="utf-8") as file:
            config = file.read()
        with open(path, "w", encoding="utf-8") as file:
            file.write(config.replace("steps = 100000", f"steps = {steps}"))
    wrong.append(judge(*runs.sweep(words(f"--train.steps={steps}")), 0,
                       ["lr=1e-3: goes on from about step", f"lr=1e-2: finished at step {steps}"]))
    code, again = runs.sweep(words(f"--train.steps={steps}"))
    wrong.append(judge(code, again, 0, ["2 points in swept"]))
    if "goes on" in again or "begins" in again:
        wrong.append(f"finished points ran again:\n{again}")
    for lr, point in zip(("1e-3", "1e-2"), points):
        calm = f"calm-{lr}"
        wrong.append(judge(*runs.run((2, ["train", "run.ini", f"--run.dir={calm}", f"--optim.lr={lr}", "--ckpt.interval=0",
                                          *CONSTANT, f"--train.steps={steps}"])), 0, []))
        if runs.curve(calm) != runs.curve(point):
            wrong.append(f"{point} and {calm} differ")
    wrong.append(judge(*runs.run((2, words("--train.steps=5"))), 2, ["Give --ranks N"]))
    return wrong


def locked_directory(runs):
    """A second run in the same directory is refused while the first one lives."""
    process = runs.start((2, ["train", "run.ini", "--run.dir=locked", ENDLESS, "--ckpt.interval=0"]))
    runs.wait_for_steps("locked", 1, process)
    second = runs.run((2, ["train", "run.ini", "--run.dir=locked"]))
    process.send_signal(signal.SIGUSR1)
    text = process.communicate(timeout=60)[0].decode(errors="replace")
    return [judge(*second, 2, ["is in use by process"]), judge(process.returncode, text, 75, [])]


def failing_rank(runs):
    """A rank whose data break during the run ends all of them with the data error's code."""
    arguments = ["train", "run.ini", "--run.dir=failing", "--model.vocab_size=110"]
    return [judge(*runs.run((2, arguments)), 3, ["text.txt"])]


def sampling_does_not_depend_on_ranks(runs):
    texts = set()
    for ranks, more in [(1, []), (2, []), (2, ["--plan.tp=2"])]:
        code, text = runs.run((ranks, ["sample", "run.ini", "--run.dir=one", "--train.dtype=fp64", "--sample.tokens=12",
                                       "--sample.prompt=the ", *more]))
        if code != 0:
            return [text]
        texts.add(text)
    return ["" if len(texts) == 1 else f"different texts: {texts}"]


def reference_results_in_every_layout(runs):
    """Reference results cut over two ranks, over two replicas, and over more replicas than rows."""
    wrong = []
    for folder in ("llama-mha", "llama-gqa-tied", "gpt2-base"):
        path = os.path.join(runs.source, "tests", "golden", folder)
        for ranks, more in [(2, ["--plan.tp=2", "--train.vocabulary_unit=1"]), (3, []),
                            (4, ["--plan.tp=2", "--plan.microbatches=2"])]:
            wrong.append(judge(*runs.run((ranks, ["verify", path, *more])), 0, ["all within 1e-09"]))
    return wrong


def doctor_runs_everywhere(runs):
    return [judge(*runs.run((2, ["doctor"])), 0, ["MPI_THREAD", "2, 2 on this node", "good (1 MiB over 2 ranks)"])]


CASES = [layouts_agree, plan_files, checkpoints_move_between_layouts, sampling_does_not_depend_on_ranks, preemption, save_and_go_on,
         termination, killed_run_goes_on, hang_is_reported, ranks_that_differ, data_that_differ, wrong_world,
         configuration_errors_are_printed_once, sweeps_go_on, locked_directory, failing_rank, reference_results_in_every_layout,
         doctor_runs_everywhere]


def main(cases):
    parser = argparse.ArgumentParser()
    parser.add_argument("--strata", required=True)
    parser.add_argument("--mpirun", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="strata-mpi-cases-") as folder:
        broken_files.write_good_files(folder)
        broken_files.write(folder, "other.txt", broken_files.TEXT)
        broken_files.write(folder, "other-plan.json", broken_files.PLAN)
        broken_files.write(folder, "verify-plan.json", VERIFY_PLAN)
        runs = Runs(options, folder)
        for case in cases:
            if options.only not in case.__name__:
                continue
            begin = time.monotonic()
            wrong = [text for text in case(runs) if text]
            failed += bool(wrong)
            print(f"{'FAIL' if wrong else 'good'} {case.__name__} ({time.monotonic() - begin:.1f} s)", flush=True)
            for text in wrong:
                print("  " + text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(CASES))
