#!/usr/bin/env python3
"""Checks the tests: breaks one thing in a copy of the sources, builds, and requires the named tests to fail.

    tests/mutations/run_mutations.py                  every entry of mutations.json
    tests/mutations/run_mutations.py --only ID[,ID]   some of them
    tests/mutations/run_mutations.py --list           what there is

An entry of mutations.json:
    id       short name
    why      what is broken, for the table
    file     source file
    find     text that occurs in it exactly once; line breaks and blanks do not matter
    replace  what stands there instead
    binary   test program below <build>/bin
    filter   GoogleTest filter: the tests that must notice
    ranks    processes; 0: without mpirun

The sources are copied, so the tree itself is never touched. The tests are first run on the unchanged copy, where
they must pass; a mutation is caught when GoogleTest reports a failed test. One that does not compile, crashes before any
test or runs past the time limit is an error, not a catch. Exit code 1 when anything was not caught.
"""

import argparse
import filecmp
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
COPIED = ["CMakeLists.txt", "LICENSE", "README.md", "cmake", "core", "parallel", "models", "optim", "data", "launch", "examples", "tests"]
KEYS = {"id", "why", "file", "find", "replace", "binary", "filter", "ranks"}


def fail(text):
    sys.exit("run_mutations: " + text)


def pattern(text):
    """Matches the tokens of `text` however the source is laid out."""
    tokens = re.findall(r"\w+|\S", text)
    parts = [re.escape(tokens[0])]
    for before, token in zip(tokens, tokens[1:]):
        both_words = re.match(r"\w", before) and re.match(r"\w", token)
        parts += [r"\s+" if both_words else r"\s*", re.escape(token)]
    return re.compile("".join(parts))


def read_entries(path, only):
    entries = json.loads(path.read_text())
    seen = set()
    for entry in entries:
        name = entry.get("id", "?")
        if set(entry) != KEYS:
            fail(f"{path.name}: {name}: got keys {sorted(entry)}, allowed: exactly {sorted(KEYS)}")
        if name in seen:
            fail(f"{path.name}: {name} is there twice")
        seen.add(name)
        source = ROOT / entry["file"]
        if not source.exists():
            fail(f"{path.name}: {name}: {entry['file']} does not exist")
        count = len(pattern(entry["find"]).findall(source.read_text()))
        if count != 1:
            fail(f"{path.name}: {name}: the text occurs {count} times in {entry['file']}, allowed: exactly once")
        if entry["find"] == entry["replace"]:
            fail(f"{path.name}: {name}: changes nothing")
    if only:
        unknown = set(only) - seen
        if unknown:
            fail(f"--only: got {', '.join(sorted(unknown))}, allowed: {', '.join(sorted(seen))}")
        entries = [entry for entry in entries if entry["id"] in only]
    return entries


def mirror(source, target):
    """Copies what differs, deletes what is gone; unchanged files keep their time, so a second run builds little."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in source.iterdir() if path.name != "__pycache__"}
        for old in target.iterdir():
            if old.name not in names:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        for name in names:
            mirror(source / name, target / name)
    elif not target.exists() or not filecmp.cmp(source, target, shallow=False):
        shutil.copyfile(source, target)
        shutil.copymode(source, target)


class Tree:
    def __init__(self, work, jobs, timeout):
        # As in the tree itself the build folder is inside the sources: the compiler cache then knows the same paths.
        self.source = work / "tree"
        self.build_dir = self.source / "build"
        self.jobs = jobs
        self.timeout = timeout
        self.env = dict(os.environ, CCACHE_BASEDIR=str(self.source), CCACHE_NOHASHDIR="1", OMP_NUM_THREADS="1",
                        OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                        OMPI_MCA_mpi_yield_when_idle="1", OMPI_MCA_btl_base_warn_component_unused="0")

    def command(self, words, what):
        result = subprocess.run(words, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode == 0:
            return True
        print(result.stdout[-6000:])
        if what:
            fail(f"{what} failed, see above")
        return False

    def configure(self, torch_dir):
        self.source.mkdir(parents=True, exist_ok=True)
        for name in COPIED:
            if (ROOT / name).exists():
                mirror(ROOT / name, self.source / name)
        words = ["cmake", "-G", "Ninja", "-S", str(self.source), "-B", str(self.build_dir), "-DSTRATA_BENCH=OFF",
                 "-DSTRATA_UNITY=OFF", "-DCMAKE_BUILD_TYPE=Release", f"-DSTRATA_TORCH_DIR={torch_dir}"]
        self.command(words, "configuring the copy")

    def build(self, targets, what):
        return self.command(["cmake", "--build", str(self.build_dir), "--parallel", str(self.jobs), "--target", *targets], what)

    def mpirun(self):
        cache = (self.build_dir / "CMakeCache.txt").read_text()
        return re.search(r"^STRATA_MPIRUN:\w+=(.*)$", cache, re.M).group(1)

    def run_test(self, entry):
        """(tests that passed, tests that failed, exit code, output, timed out)"""
        program = [str(self.build_dir / "bin" / entry["binary"]), f"--gtest_filter={entry['filter']}",
                   "--gtest_color=no"]
        if entry["ranks"] > 0:
            program = [self.mpirun(), "-n", str(entry["ranks"]), "--oversubscribe", "--bind-to", "none", *program,
                       f"--ranks={entry['ranks']}"]
        process = subprocess.Popen(program, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   errors="replace", cwd=self.source, start_new_session=True)
        try:
            output, _ = process.communicate(timeout=self.timeout)
            timed_out = False
        except subprocess.TimeoutExpired:
            process.terminate()
            output, _ = process.communicate()
            timed_out = True

        def names(*patterns):
            return list(dict.fromkeys(name for pattern in patterns for name in re.findall(pattern, output, re.M)))

        # Rank 0 prints as usual; tests that fail on another rank are named by the multi-rank main.
        failed = names(r"\[ +FAILED +\] ([\w/]+\.[\w/]+)", r"^([\w/]+\.[\w/]+) failed on another rank",
                       r"^\[rank \d+\] ([\w/]+\.[\w/]+) failed fatally")
        passed = [name for name in names(r"\[ +OK +\] ([\w/]+\.[\w/]+)") if name not in failed]
        return passed, failed, process.returncode, output, timed_out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", type=lambda text: text.split(","), default=[])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build" / "mutations", help="folder for the copy")
    parser.add_argument("--torch-dir", default=os.environ.get("STRATA_TORCH_DIR", str(ROOT / ".deps/python/torch")))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--timeout", type=int, default=300, help="seconds for one run of a test program")
    options = parser.parse_args()

    entries = read_entries(pathlib.Path(__file__).with_name("mutations.json"), options.only)
    if options.list:
        for entry in entries:
            print(f"{entry['id']:32} {entry['file']}: {entry['why']}")
        return 0
    if not entries:
        fail("mutations.json has no entries")

    tree = Tree(options.work.resolve(), options.jobs, options.timeout)
    tree.configure(options.torch_dir)
    started = time.time()
    tree.build(sorted({entry["binary"] for entry in entries}), "building the unchanged copy")
    print(f"unchanged copy built in {time.time() - started:.0f} s", flush=True)
    checked = set()
    for entry in entries:
        key = (entry["binary"], entry["filter"], entry["ranks"])
        if key in checked:
            continue
        checked.add(key)
        passed, failed, code, output, timed_out = tree.run_test(entry)
        if failed or code != 0 or timed_out or not passed:
            print(output[-6000:])
            fail(f"{entry['binary']} {entry['filter']} on {entry['ranks']} ranks does not pass on the unchanged sources "
                 f"(exit code {code}, {len(passed)} passed, {len(failed)} failed)")

    rows = []
    for entry in entries:
        started = time.time()
        path = tree.source / entry["file"]
        original = path.read_text()
        path.write_text(pattern(entry["find"]).sub(lambda _: entry["replace"], original))
        try:
            if not tree.build([entry["binary"]], None):
                verdict, detail = "ERROR", "does not compile"
            else:
                passed, failed, code, output, timed_out = tree.run_test(entry)
                if timed_out:
                    verdict, detail = "ERROR", f"ran longer than {options.timeout} s"
                elif failed:
                    verdict, detail = "caught", failed[0] + (f" (+{len(failed) - 1})" if len(failed) > 1 else "")
                elif code != 0:
                    verdict, detail = "ERROR", f"exit code {code} without a failed test"
                    print(output[-3000:])
                else:
                    verdict, detail = "MISSED", f"{entry['binary']} {entry['filter']} still passes"
        finally:
            path.write_text(original)
        rows.append((entry["id"], verdict, detail, time.time() - started))
        print(f"{entry['id']:32} {verdict:7} {rows[-1][3]:4.0f} s  {detail}", flush=True)

    print(f"\n{'mutation':32} {'verdict':7}  caught by")
    for name, verdict, detail, _ in rows:
        print(f"{name:32} {verdict:7}  {detail}")
    missed = [row for row in rows if row[1] != "caught"]
    print(f"\n{len(rows) - len(missed)} of {len(rows)} mutations caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
