#!/usr/bin/env python3
"""Checks that every C++ and CUDA source is laid out as .clang-format says (clang-format 14), is ASCII, ends with a
newline and has no tabs or trailing blanks.

    tools/check_format.py          lists what differs, exit code 1
    tools/check_format.py --fix    rewrites the files
"""

import argparse
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ["core", "parallel", "models", "optim", "data", "launch", "tests", "bench", "examples"]
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
VERSION = "14"


def find_clang_format():
    for name in (f"clang-format-{VERSION}", "clang-format"):
        path = shutil.which(name)
        if path and f"version {VERSION}." in subprocess.run([path, "--version"], capture_output=True, text=True).stdout:
            return path
    sys.exit(f"check_format: clang-format {VERSION} is not installed (other versions lay sources out differently); "
             "run tools/setup.sh")


def problems(path, clang_format):
    found = []
    data = path.read_bytes()
    where = path.relative_to(ROOT)
    for number, line in enumerate(data.split(b"\n"), 1):
        if any(byte > 126 or (byte < 32 and byte != 9) for byte in line):
            found.append(f"{where}:{number}: a character that is not printable ASCII")
        if b"\t" in line or line.endswith(b" "):
            found.append(f"{where}:{number}: tab or trailing blank")
    if data and not data.endswith(b"\n"):
        found.append(f"{where}: no newline at the end")
    if path.suffix in SUFFIXES:
        result = subprocess.run([clang_format, str(path)], capture_output=True)
        if result.returncode != 0:
            found.append(f"{where}: clang-format failed: {result.stderr.decode(errors='replace').strip()}")
        elif result.stdout != data:
            formatted = result.stdout.split(b"\n")
            line = next((n for n, (a, b) in enumerate(zip(data.split(b"\n"), formatted), 1) if a != b), 1)
            found.append(f"{where}:{line}: not laid out as .clang-format says")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fix", action="store_true")
    parser.add_argument("files", nargs="*", type=pathlib.Path, help="default: all sources")
    options = parser.parse_args()
    clang_format = find_clang_format()
    files = [path.resolve() for path in options.files]
    if not files:
        for folder in FOLDERS:
            files += [path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in SUFFIXES]
    if not files:
        sys.exit("check_format: no sources found")
    if options.fix:
        subprocess.run([clang_format, "-i", *map(str, files)], check=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [problem for result in pool.map(lambda path: problems(path, clang_format), files) for problem in result]
    for problem in found:
        print(problem)
    print(f"check_format: {len(files)} sources, {len(found)} problems" +
          (" (tools/check_format.py --fix repairs the layout)" if found else ""))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
