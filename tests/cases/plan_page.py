#!/usr/bin/env python3
"""docs/plan.md shows what the program does: its run file and plan file are written into a folder, every command of a
console block is run there and its output compared, every row of the table of refusals is tried, and every key of plan
files and of [plan] is named.

    plan_page.py STRATA --page docs/plan.md --text FILE --work DIR --mpirun MPIRUN [--write]

--write puts the outputs of `strata` into the page instead of comparing them.
"""

import argparse
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

CONSOLE = re.compile(r"^```console\n\$ (.*?)\n(.*?)^```$", re.M | re.S)
ROW = re.compile(r"^\| `([\w/]+) = (.*?)` \| `(.*?)` \|$", re.M)


class Page:
    def __init__(self, options):
        self.options = options
        self.text = options.page.read_text()
        self.plan = json.loads(re.search(r"^```json\n(.*?)^```$", self.text, re.M | re.S).group(1))
        self.problems = []
        shutil.rmtree(options.work, ignore_errors=True)
        options.work.mkdir(parents=True)
        (options.work / "text.txt").write_text(options.text.read_text())
        (options.work / "run.ini").write_text(re.search(r"^```ini\n(.*?)^```$", self.text, re.M | re.S).group(1))
        self.write_plan(self.plan)

    def write_plan(self, plan):
        (self.options.work / "plan.json").write_text(json.dumps(plan))

    def run(self, command):
        words = shlex.split(command)
        if words[0] == "mpirun":
            words = [self.options.mpirun, "--oversubscribe", "--bind-to", "none", *words[1:]]
        words = [self.options.strata if word == "strata" else word for word in words]
        done = subprocess.run(words, cwd=self.options.work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        return done.returncode, done.stdout.decode()

    def consoles(self):
        def answer(match):
            command, shown = match.group(1), match.group(2)
            code, output = self.run(command)
            if code != 0:
                self.problems.append(f"{command} ended with {code}:\n{output}")
            if command.startswith("mpirun"):  # a run's log has times
                return match.group(0)
            if output != shown and not self.options.write:
                self.problems.append(f"{command} prints\n{output}and the page shows\n{shown}")
            return f"```console\n$ {command}\n{output}```"
        self.text, count = CONSOLE.subn(answer, self.text)
        if count < 5:
            self.problems.append(f"{count} console blocks")

    def refusals(self):
        def answer(match):
            plan = json.loads(json.dumps(self.plan))
            *path, last = match.group(1).split("/")
            at = plan
            for key in path:
                at = at[int(key)] if isinstance(at, list) else at[key]
            at[last] = json.loads(match.group(2))
            self.write_plan(plan)
            code, output = self.run("strata plan check plan.json --model run.ini")
            said = output.removeprefix("strata: ").strip().split("\n")[0]
            if code != 2 or said != match.group(3) and not self.options.write:
                self.problems.append(f"{match.group(1)} = {match.group(2)}: {code}, {output}and the page says\n{match.group(3)}")
            return f"| `{match.group(1)} = {match.group(2)}` | `{said}` |"
        self.text, count = ROW.subn(answer, self.text)
        if count < 12:
            self.problems.append(f"{count} rows of refusals")
        self.write_plan(self.plan)

    def keys(self):
        """Every key of a written plan file and of [plan] is in backquotes somewhere."""
        written = json.loads(self.run("strata plan show plan.json --model run.ini --json")[1])["plan"]
        names = set(written) | set(written["global"]) | set(written["layers"][0]) | set(written["stages"][0])
        names |= {"hash", "devices", "from", "to"}
        schema = json.loads(self.run("strata config schema --json")[1])["settings"]
        names |= {key for key in schema if key.startswith("plan.")}
        for name in sorted(names):
            if f"`{name}`" not in self.text:
                self.problems.append(f"`{name}` is not explained")
        for name in set(re.findall(r"`(plan\.\w+)`", self.text)) - set(schema) - {"plan.json"}:
            self.problems.append(f"`{name}` is no key")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("strata")
    parser.add_argument("--page", required=True, type=pathlib.Path)
    parser.add_argument("--text", required=True, type=pathlib.Path)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--mpirun", required=True)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    options.strata = str(pathlib.Path(options.strata).resolve())
    page = Page(options)
    page.consoles()
    page.refusals()
    page.keys()
    if options.write:
        options.page.write_text(page.text)
    for problem in page.problems:
        print(problem)
    print(f"plan_page: {len(page.problems)} problems")
    return 1 if page.problems else 0


if __name__ == "__main__":
    sys.exit(main())
