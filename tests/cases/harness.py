"""What the case drivers share: running the binary, comparing what it said, reporting."""
import concurrent.futures
import os
import shlex
import subprocess
import time


class Case:
    """One command line with what it must answer."""

    def __init__(self, name, words, code, expected, folder):
        self.name = name
        self.words = words
        self.code = code
        self.expected = expected  # pieces of standard output and error together
        self.folder = folder

    def run(self, binary):
        """Returns "" when the answer is right, else what is wrong."""
        # A rank variable left over from a launcher would make the binary start MPI.
        clean = {k: v for k, v in os.environ.items()
                 if not k.startswith(("OMPI_COMM_WORLD", "PMIX_", "PMI_", "SLURM_"))}
        clean["OMP_NUM_THREADS"] = "1"
        try:
            done = subprocess.run([binary, *self.words], cwd=self.folder, env=clean, timeout=120,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        except subprocess.TimeoutExpired:
            return "still running after 120 s"
        return judge(done.returncode, done.stdout.decode(errors="replace"), self.code, self.expected)


def judge(code, text, wanted_code, expected):
    wrong = []
    if code != wanted_code:
        wrong.append(f"exit code {code}, expected {wanted_code}")
    for piece in expected:
        if piece not in text:
            wrong.append(f"the answer does not contain: {piece}")
    if wrong:
        wrong.append("answer:\n    " + text.strip().replace("\n", "\n    "))
    return "\n  ".join(wrong)


def table(path):
    """Rows "code ; words ; piece ; piece ..." of a text file; '#' starts a comment line."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            cells = [cell.strip() for cell in line.split(" ; ")]
            yield f"{os.path.basename(path)}:{number}", int(cells[0]), [word for word in shlex.split(cells[1]) if word], cells[2:]


def run_all(binary, cases, least):
    """Runs cases two at a time. Returns the process's exit code."""
    start = time.monotonic()
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for case, wrong in zip(cases, pool.map(lambda c: c.run(binary), cases)):
            if wrong:
                failed += 1
                print(f"FAIL {case.name}: strata {' '.join(case.words)}\n  {wrong}")
    print(f"{len(cases) - failed} of {len(cases)} cases good in {time.monotonic() - start:.0f} s")
    if len(cases) < least:
        print(f"FAIL only {len(cases)} cases were found, there are at least {least}")
        return 1
    return 1 if failed else 0
