#!/usr/bin/env python3
"""Checks that the pages are true where a program can tell.

* Links between pages, and from pages to files, lead somewhere.
* In docs/architecture.md every `file.cpp` or `folder/` in backquotes exists, and in its section "The walk of one batch"
  every function in backquotes with parentheses, `Class::function()` or `function()`, occurs in the file that the same
  line names. In the table of folders, the types of the last column occur in a header below the folder.
* In docs/own-model.md every block marked cpp, cmake or ini is a run of lines of a file in examples/own_model/, indentation
  aside. The example keeps its promise: less than 150 lines that do not speak of ranks.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATH = re.compile(r"`((?:core|parallel|models|optim|data|launch|tests|bench|tools|docs|cmake|examples)/[\w./-]*)`")
FUNCTION = re.compile(r"`((?:\w+::)*\w+)\(\)`")


def example_problems():
    folder, page = ROOT / "examples" / "own_model", ROOT / "docs" / "own-model.md"
    problems, blocks = [], 0
    files = [[line.strip() for line in path.read_text().splitlines()] for path in sorted(folder.iterdir())]
    text = page.read_text()
    for match in re.finditer(r"^```(?:cpp|cmake|ini)\n(.*?)^```$", text, re.M | re.S):
        blocks += 1
        block = [line.strip() for line in match.group(1).splitlines()]
        if not any(block == lines[at:at + len(block)] for lines in files for at in range(len(lines))):
            number = text.count("\n", 0, match.start()) + 1
            problems.append(f"docs/own-model.md:{number}: this block is not in examples/own_model/")
    if blocks < 8:
        problems.append(f"docs/own-model.md: {blocks} blocks of code, expected 8 or more")
    source = (folder / "own_model.cpp").read_text()
    if source.count("\n") >= 150:
        problems.append(f"examples/own_model/own_model.cpp: {source.count(chr(10))} lines, at most 149")
    for word in re.findall(r"\b(?:ranks?|tp|dp|tp_\w+|split_(?:out|in)|shard\w*)\b", source, re.I):
        problems.append(f"examples/own_model/own_model.cpp: speaks of {word}")
    return problems


def main():
    problems = example_problems()
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "models").glob("*/README.md"))]
    for page in pages:
        where = page.relative_to(ROOT)
        for number, line in enumerate(page.read_text().splitlines(), 1):
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", line):
                if "://" not in target and not (page.parent / target).exists():
                    problems.append(f"{where}:{number}: link to {target}, which does not exist")

    page = ROOT / "docs" / "architecture.md"
    in_walk = False
    named = 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("#"):
            in_walk = "walk of one batch" in line
        paths = PATH.findall(line)
        for path in paths:
            if not (ROOT / path).exists():
                problems.append(f"docs/architecture.md:{number}: {path} does not exist")
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if len(row) == 3 and paths and row[0] == f"`{paths[0]}`" and (ROOT / paths[0]).is_dir():
            headers = "".join(header.read_text() for header in (ROOT / paths[0]).rglob("*.h"))
            for name in re.findall(r"\b[A-Z]\w+(?=,|$)", row[2]):
                if not re.search(r"\b(class|struct|using)\s+(\[\[\w+\]\]\s+)?%s\b" % name, headers):
                    problems.append(f"docs/architecture.md:{number}: no type {name} below {paths[0]}")
        if not in_walk:
            continue
        sources = [ROOT / path for path in paths if (ROOT / path).is_file()]
        text = "".join(source.read_text() for source in sources)
        for function in FUNCTION.findall(line):
            named += 1
            if not sources:
                problems.append(f"docs/architecture.md:{number}: {function}() is named without a file")
            elif not re.search(r"\b%s\s*\(" % re.escape(function.split("::")[-1]), text):
                problems.append(f"docs/architecture.md:{number}: {function}() is not in {', '.join(paths)}")
    if named < 10:
        problems.append(f"docs/architecture.md: the walk of one batch names {named} functions, expected 10 or more")

    for problem in problems:
        print(problem)
    print(f"check_docs: {len(pages)} pages, {named} functions, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
