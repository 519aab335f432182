#!/usr/bin/env python3
"""Compiles every header alone: each must bring what it needs. Prints the slowest ones.

    tools/check_headers.py --torch-dir DIR [--jobs N] [--include DIR ...] [--folder core] [--limit SECONDS]

A public header should take at most 3.5 s (most of it is LibTorch's Tensor); --limit makes that an error. Without it times
are only shown, because they depend on what else the machine does.
"""

import argparse
import concurrent.futures
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ["core", "parallel", "models", "optim", "data", "launch"]


def compile_alone(header, options, folder):
    source = pathlib.Path(folder) / (str(header.relative_to(ROOT)).replace("/", "_") + ".cpp")
    source.write_text(f'#include "{header.relative_to(ROOT)}"\n')
    started = time.time()
    result = subprocess.run(
        [options.compiler, "-std=c++20", "-fsyntax-only", "-I", str(ROOT), "-isystem", f"{options.torch_dir}/include",
         *[word for folder in options.include for word in ("-isystem", folder)], str(source)],
        capture_output=True, text=True)
    return header.relative_to(ROOT), time.time() - started, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--torch-dir", default=os.environ.get("STRATA_TORCH_DIR", str(ROOT / ".deps/python/torch")))
    parser.add_argument("--include", nargs="*", default=[], help="include folders of MPI and HDF5, for private headers")
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--folder", default="")
    parser.add_argument("--limit", type=float, default=0)
    options = parser.parse_args()
    headers = [header for folder in FOLDERS for header in sorted((ROOT / folder).rglob("*.h"))
               if str(header.relative_to(ROOT)).startswith(options.folder)]
    if not headers:
        sys.exit(f"check_headers: no headers below {options.folder}")
    problems, rows = 0, []
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for name, seconds, result in pool.map(lambda header: compile_alone(header, options, folder), headers):
            rows.append((seconds, name))
            if result.returncode != 0:
                problems += 1
                print(f"{name} does not compile alone:\n{result.stderr}")
            elif options.limit and seconds > options.limit:
                problems += 1
                print(f"{name} takes {seconds:.1f} s alone, allowed: {options.limit} s")
    for seconds, name in sorted(rows, reverse=True)[:10]:
        print(f"{seconds:5.1f} s  {name}")
    print(f"check_headers: {len(rows)} headers, {problems} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
