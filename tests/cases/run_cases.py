"""Runs the strata binary on wrong configurations, command lines, data files and checkpoints, and compares exit code and
message with what the case files say.

  config_errors/*.ini   "# exit: 2" and "# expect: piece of the message", then the run file
  command_lines.txt     code ; words ; pieces
  data_files.txt        the same, {name} is a broken file made by broken_files.py
  checkpoints.txt       the same, {name} is a damaged copy of a checkpoint made by broken_checkpoints.py
  parity.txt            the same, {name} is a folder of reference results changed by broken_parity.py

usage: run_cases.py --strata BINARY --source REPOSITORY [--only TEXT]
"""
import argparse
import glob
import os
import subprocess
import sys
import tempfile

import broken_checkpoints
import broken_files
import broken_parity
from harness import Case, run_all, table

HERE = os.path.dirname(os.path.abspath(__file__))


def config_cases(folder):
    for path in sorted(glob.glob(os.path.join(HERE, "config_errors", "*.ini"))):
        code, expected = None, []
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.startswith("# exit: "):
                    code = int(line[len("# exit: "):])
                elif line.startswith("# expect: "):
                    expected.append(line[len("# expect: "):].rstrip("\n"))
        yield Case(os.path.basename(path), ["config", "check", path], code, expected, folder)


def table_cases(name, folder, files):
    for number, (where, code, words, expected) in enumerate(table(os.path.join(HERE, name))):
        # Two cases run at a time: each training run has a directory of its own.
        if words[:2] == ["train", "run.ini"] and not any(word.startswith("--run.") for word in words):
            words = words[:2] + [f"--run.name=case-{number}"] + words[2:]
        yield Case(where, [word.format(**files) for word in words], code,
                   [piece.format(**files) for piece in expected], folder)


def schema_case(binary, source):
    """docs/config.md is what the binary prints."""
    printed = subprocess.run([binary, "config", "schema", "--markdown"], stdout=subprocess.PIPE, check=True).stdout.decode()
    with open(os.path.join(source, "docs", "config.md"), encoding="utf-8") as file:
        page = file.read()
    if printed == page:
        return 0
    print("FAIL docs/config.md is not what the binary prints; run: strata config schema --markdown > docs/config.md")
    return 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--strata", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    binary = os.path.abspath(options.strata)
    with tempfile.TemporaryDirectory(prefix="strata-cases-") as folder:
        broken_files.write_good_files(folder)
        files = broken_files.write_broken_files(folder)
        files.update(broken_checkpoints.write_broken_checkpoints(binary, folder))
        files.update(broken_parity.write_broken_parity(options.source, folder))
        cases = list(config_cases(folder))
        for name in ("command_lines.txt", "data_files.txt", "checkpoints.txt", "parity.txt"):
            cases += table_cases(name, folder, files)
        cases = [case for case in cases if options.only in case.name]
        code = run_all(binary, cases, 1 if options.only else 150)
    return max(code, schema_case(binary, os.path.abspath(options.source)))


if __name__ == "__main__":
    sys.exit(main())
