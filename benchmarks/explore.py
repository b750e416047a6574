"""How long a change on the page of ``stedyn explore`` takes to be seen, in a browser, beside the imports of a process.

    python benchmarks/explore.py [--changes 9]

Every change is entered when nothing else is computed, and timed from the key until the answer has been painted. Floor:
the pass of the law alone, in the process of the server.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

#: Notes when a key is pressed.
PRESSED = "() => addEventListener('keydown', () => { window.pressed = performance.now() }, {capture: true, once: true})"
#: Milliseconds from the key until what is there now has been painted.
PAINTED = """() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(
  () => done(performance.now() - window.pressed))))"""


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--changes", type=int, default=9)
    count = parser.parse_args().changes
    from browser import chromium

    from stedyn.explore.answers import first
    from stedyn.explore.server import ADDRESS, free_port, serve
    from stedyn.explore.view import View

    start, port = View(), free_port(0)
    server = serve(start, port, threaded=True)
    time.sleep(2)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(300_000)
        page.goto(f"http://{ADDRESS}:{port}/")
        taken = []
        for k in range(count + 1):
            page.locator('[data-stage="done"]').wait_for()
            time.sleep(0.5)
            taken.append(_seen(page, str(1 + 0.05 * k)))
        page.locator('[data-stage="done"]').wait_for()
    server.stop()
    passes = [_timed(lambda k=k: list(first(start.with_text("weights", "range", str(1.01 + 0.05 * k)).problem())))
              for k in range(count)]  # fmt: skip
    imports = [_timed(lambda: subprocess.run([sys.executable, "-c", "import jax, diffrax, pandas"], check=True))
               for _ in range(3)]  # fmt: skip
    seen, floor, unit = (statistics.median(times) for times in (taken[1:], passes, imports))
    print(f"a change is seen after {seen:.2f} s (median of {count}, {min(taken[1:]):.2f} to {max(taken[1:]):.2f} s), "
          f"{seen / unit:.2f} imports of {unit:.2f} s; the pass alone takes {floor:.2f} s")  # fmt: skip


def _seen(page, width: str) -> float:
    """Seconds until the answer to another range is painted."""
    from browser import change

    page.evaluate(PRESSED)
    change(page, "weights-range", width)
    return page.evaluate(PAINTED) / 1000


def _timed(task) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
