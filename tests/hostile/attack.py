"""The attack: every case of `cases` in processes that are watched. As a program it prints what was found, as counts.

``python tests/hostile/attack.py`` attacks the stedyn that Python imports.
"""

import contextlib
import io
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES, Case

#: Seconds, bytes and lines of an answer, at most.
SECONDS, BYTES, LINES = 10.0, 2 * 10**9, 3
#: Seconds of an answer that has to be compiled.
COMPILED = 60.0


def answer(case: Case) -> list:
    """Exit code (or the traceback), and what was said, of a case in this process and a folder of its own."""
    from stedyn.cli.app import main

    err, here = io.StringIO(), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        case.prepare(Path(folder))
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
                code = main(case.argv)
        except BaseException:
            code = traceback.format_exc()
        finally:
            os.chdir(here)
        if (Path(folder) / "executed").exists():
            code = "code was executed"
    return [code, err.getvalue()]


def fault(case: Case, code, said: str) -> str | None:
    """What is wrong with an answer, in a word or two; None if it is one sentence with its exit code."""
    if isinstance(code, str):
        return code if "\n" not in code else "traceback"
    if code == 0 and case.answered:
        return None
    if code not in (1, 2):
        return f"exit code {code}"
    if not said.startswith("stedyn: ") or len(said.splitlines()) > LINES or len(said) > 3000:
        return "no sentence"
    if not all(c.isprintable() or c == "\n" for c in said):
        return "control characters"
    if case.refused and "--plot" in said.split(":")[1]:
        return "not refused"
    return None


def attack(cases: list[Case]):
    """``(case, fault or None, what was said)`` of each; a process that hangs or dies is replaced."""
    waiting = list(enumerate(cases))
    while waiting:
        with subprocess.Popen(
            [sys.executable, __file__, "child", json.dumps([CASES.index(case) for _, case in waiting])],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        ) as child:  # fmt: skip
            child.stdout.readline()  # it has imported what it needs
            while waiting:
                begin, case = time.monotonic(), waiting[0][1]
                ready = select.select([child.stdout], [], [], 3 * (COMPILED if case.answered else SECONDS))[0]
                line = child.stdout.readline() if ready else ""
                waiting.pop(0)
                if not line:
                    child.kill()
                    yield case, "died" if ready else "hang", ""
                    break
                code, said, memory = json.loads(line)
                found = fault(case, code, said)
                if found is None and time.monotonic() - begin > (COMPILED if case.answered else SECONDS):
                    found = "slow"
                if found is None and memory > BYTES:
                    found = "memory"
                yield case, found, code if found == "traceback" else said


def _child(numbers: list[int]) -> None:
    import jax

    import stedyn.cli.app
    import stedyn.files.layers
    import stedyn.simulation

    out = os.fdopen(os.dup(1), "w")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    jax.numpy.zeros(1).block_until_ready()
    print(stedyn.__file__, file=out, flush=True)
    for number in numbers:
        code, said = answer(CASES[number])
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps([code, said, memory]), file=out, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        _child(json.loads(sys.argv[2]))
    else:
        counts: Counter = Counter()
        for case, found, said in attack(CASES):
            counts[found or "a sentence"] += 1
            if found:
                print(f"{found}: {case.name}: {said[-300:]!r}", flush=True)
        print(len(CASES), "cases:", dict(counts))
