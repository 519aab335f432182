#!/usr/bin/env python3
"""Checks the includes and the form of every C++ and CUDA source of the tree.

    tools/check_layers.py [--root DIR]     exit 0: clean; exit 1: every violation as "file:line: what (rule)"
    tools/check_layers.py --self-test      proves that each rule can fail

Rules
    arrows     a folder includes only the folders that ARROWS (and PARALLEL_ARROWS inside parallel/) lists
    rooted     project headers are written from the root of the tree: "core/text.h", never "text.h" or "../text.h"
    torch      torch/torch.h and torch::nn headers are included nowhere (10 s for each source)
    ascii      sources hold ASCII only
    length     no source is longer than 800 lines
"""
import argparse
import os
import re
import sys
import tempfile

ARROWS = {
    "core": {"core"},
    "data": {"data", "core"},
    "parallel": {"parallel", "core"},
    "models": {"models", "parallel", "core"},
    "optim": {"optim", "parallel", "core"},
    "launch": {"launch", "models", "optim", "data", "parallel", "core"},
}
# Between the folders of parallel/. Files directly in parallel/, engine/ and planner/ may include all of it.
PARALLEL_ARROWS = {
    "comm": {"comm"},
    "plan": {"plan"},
    "nn": {"nn", "comm", "plan"},
    "checkpoint": {"checkpoint", "nn", "comm", "plan"},
}
FREE_FOLDERS = ("tests", "examples", "bench")  # may include everything, and are included by no library

SOURCE = re.compile(r"\.(h|hpp|cpp|cu|cuh|cc|c)$")
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')
TORCH = re.compile(r"^torch/(csrc/api/include/torch/)?(torch\.h$|all\.h$|extension\.h$|nn\.h$|nn/)")
MOST_LINES = 800


def without_comments(text):
    """The text with comments blanked, line by line: an include in a comment is none. Literals are kept."""
    token = re.compile(r'//[^\n]*|/\*.*?(?:\*/|\Z)|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)

    def blank(match):
        piece = match.group(0)
        return re.sub(r"[^\n]", " ", piece) if piece.startswith("/") else piece

    return token.sub(blank, text)


def arrow_violation(path, target):
    """Why the file `path` must not include `target` (both from the root), or None."""
    source_parts, target_parts = path.split("/"), target.split("/")
    source, goal = source_parts[0], target_parts[0]
    if source in FREE_FOLDERS or source not in ARROWS:
        return None
    if goal in FREE_FOLDERS:
        return f"{source} -> {goal}", f"no library includes {', '.join(FREE_FOLDERS)}"
    if goal not in ARROWS:
        return None
    if goal not in ARROWS[source]:
        return f"{source} -> {goal}", f"{source} may include {', '.join(sorted(ARROWS[source]))}"
    if source == goal == "parallel" and len(source_parts) > 2:
        inner = source_parts[1]
        inner_goal = target_parts[1] if len(target_parts) > 2 else "(files directly in parallel)"
        allowed = PARALLEL_ARROWS.get(inner)
        if allowed is not None and inner_goal not in allowed:
            return f"parallel/{inner} -> parallel/{inner_goal}", (
                f"parallel/{inner} may include {', '.join(sorted(allowed))}, core")
    return None


def check_file(root, path):
    """Violations of one file as (line, text)."""
    with open(os.path.join(root, path), "rb") as file:
        data = file.read()
    out = []
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        bad = next((byte for byte in line if byte > 0x7E or (byte < 0x20 and byte not in (0x09, 0x0D))), None)
        if bad is not None:
            out.append((number, f"byte 0x{bad:02x} (ascii: sources hold printable ASCII only)"))
    count = len(lines) - (1 if lines[-1] == b"" else 0)
    if count > MOST_LINES:
        out.append((count, f"{count} lines (length: at most {MOST_LINES}; split the file by concept)"))
    for number, line in enumerate(without_comments(data.decode("latin-1")).split("\n"), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match.group(1) or match.group(2)
        if TORCH.match(target):
            out.append((number, f"includes {target} (torch: use core/tensor.h and ATen/ops/<op>.h)"))
            continue
        quoted = match.group(1) is not None
        beside = os.path.normpath(os.path.join(os.path.dirname(path), target)).replace(os.sep, "/")
        first = target.split("/")[0]
        known = first in ARROWS or first in FREE_FOLDERS
        if quoted and not (known and "/" in target):
            if target.startswith(".") or os.path.exists(os.path.join(root, beside)):
                out.append((number, f'includes "{target}" (rooted: write it from the root, "{beside}")'))
                target = beside
            else:
                continue
        elif not known:
            continue
        violation = arrow_violation(path, os.path.normpath(target).replace(os.sep, "/"))
        if violation:
            arrow, rule = violation
            out.append((number, f"{arrow}: includes {target} (arrows: {rule})"))
    return out


def sources(root):
    for top in sorted(set(ARROWS) | set(FREE_FOLDERS)):
        for folder, folders, files in os.walk(os.path.join(root, top)):
            folders.sort()
            for name in sorted(files):
                if SOURCE.search(name):
                    yield os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")


def check_tree(root):
    violations, count = [], 0
    for path in sources(root):
        count += 1
        violations += [f"{path}:{line}: {text}" for line, text in check_file(root, path)]
    return violations, count


# (file, text, what the one violation must contain, or None for a clean file)
SELF_TEST = [
    ("core/a.h", '#include "core/b.h"\n#include <vector>\n#include "nlohmann/json.hpp"\n', None),
    ("core/a.h", '#include "parallel/b.h"\n', "core -> parallel"),
    ("core/a.h", '#include <parallel/b.h>\n', "core -> parallel"),
    ("core/ops/a.cpp", '\n\n  #  include "launch/b.h"\n', "core/ops/a.cpp:3: core -> launch"),
    ("data/a.h", '#include "core/b.h"\n', None),
    ("data/a.h", '#include "parallel/b.h"\n', "data -> parallel"),
    ("parallel/a.h", '#include "parallel/engine/b.h"\n', None),
    ("parallel/a.h", '#include "models/b.h"\n', "parallel -> models"),
    ("parallel/comm/a.h", '#include "core/b.h"\n#include "parallel/comm/b.h"\n', None),
    ("parallel/comm/a.h", '#include "parallel/plan/b.h"\n', "parallel/comm -> parallel/plan"),
    ("parallel/comm/a.h", '#include "parallel/b.h"\n', "parallel/comm -> parallel/(files directly in parallel)"),
    ("parallel/plan/a.h", '#include "parallel/comm/b.h"\n', "parallel/plan -> parallel/comm"),
    ("parallel/nn/a.h", '#include "parallel/comm/b.h"\n#include "parallel/plan/b.h"\n', None),
    ("parallel/nn/a.h", '#include "parallel/engine/b.h"\n', "parallel/nn -> parallel/engine"),
    ("parallel/nn/a.h", '#include "parallel/checkpoint/b.h"\n', "parallel/nn -> parallel/checkpoint"),
    ("parallel/checkpoint/a.h", '#include "parallel/nn/b.h"\n', None),
    ("parallel/checkpoint/a.h", '#include "parallel/engine/b.h"\n', "parallel/checkpoint -> parallel/engine"),
    ("parallel/engine/a.h", '#include "parallel/checkpoint/b.h"\n#include "parallel/planner/b.h"\n', None),
    ("parallel/engine/a.h", '#include "optim/b.h"\n', "parallel -> optim"),
    ("parallel/planner/a.h", '#include "parallel/engine/b.h"\n', None),
    ("models/a/a.h", '#include "models/b/b.h"\n#include "parallel/nn/b.h"\n', None),
    ("models/a/a.h", '#include "optim/b.h"\n', "models -> optim"),
    ("models/a/a.h", '#include "data/b.h"\n', "models -> data"),
    ("optim/a.h", '#include "models/b.h"\n', "optim -> models"),
    ("optim/a.h", '#include "launch/b.h"\n', "optim -> launch"),
    ("launch/a.h", '#include "models/b.h"\n#include "optim/b.h"\n#include "data/b.h"\n', None),
    ("launch/a.h", '#include "tests/support/b.h"\n', "launch -> tests"),
    ("tests/core/a_test.cpp", '#include "launch/b.h"\n#include "tests/support/b.h"\n', None),
    ("bench/a.cpp", '#include "optim/b.h"\n', None),
    ("core/a.h", '// #include "launch/b.h"\n/* text\n#include "launch/b.h"\n*/\n', None),
    ("core/a.h", 'const char* s = "/*";\n#include "launch/b.h"\n', "core/a.h:2: core -> launch"),
    ("core/a.cpp", '#include "a.h"\n', 'rooted: write it from the root, "core/a.h"'),
    ("core/ops/a.cpp", '#include "../a.h"\n', 'rooted: write it from the root, "core/a.h"'),
    ("core/a.cpp", '#include "mpi.h"\n', None),
    ("core/a.cpp", "#include <torch/torch.h>\n", "includes torch/torch.h"),
    ("tests/a.cpp", '#include "torch/nn/module.h"\n', "includes torch/nn/module.h"),
    ("examples/a.cpp", "#include <torch/nn.h>\n", "includes torch/nn.h"),
    ("core/a.cpp", "#include <torch/csrc/api/include/torch/nn.h>\n", "includes torch/csrc/api"),
    ("core/a.cpp", "#include <torch/extension.h>\n", "includes torch/extension.h"),
    ("core/a.cpp", "#include <torch/csrc/autograd/custom_function.h>\n", None),
    ("core/a.cpp", "int a;  // \u00e9\n", "core/a.cpp:1: byte 0xc3"),
    ("core/ops/a.cu", "int a;\n\x00\n", "core/ops/a.cu:2: byte 0x00"),
    ("core/a.cpp", "\n" * 800, None),
    ("core/a.cpp", "\n" * 801, "801 lines"),
    ("tests/a.cpp", "\n" * 900, "900 lines"),
]


def self_test():
    failures = []
    for path, text, expected in SELF_TEST:
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.join(root, "core"))
            open(os.path.join(root, "core/a.h"), "w").close()
            os.makedirs(os.path.join(root, os.path.dirname(path)), exist_ok=True)
            with open(os.path.join(root, path), "wb") as file:
                file.write(text.encode("utf-8"))
            violations, _ = check_tree(root)
        good = not violations if expected is None else len(violations) == 1 and expected in violations[0]
        if not good:
            failures.append(f"{path} with {text[:60]!r}: expected {expected!r}, got {violations}")
    for failure in failures:
        print(failure)
    print(f"self-test: {len(SELF_TEST) - len(failures)} of {len(SELF_TEST)} cases as expected")
    return 1 if failures else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    violations, count = check_tree(arguments.root)
    for violation in violations:
        print(violation)
    if count == 0:
        print(f"no sources below {arguments.root}")
        return 1
    print(f"{count} sources, {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
