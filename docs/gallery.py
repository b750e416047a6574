"""A page for every study: what it asks, its kept figure and table, and, on demand, what it says with quick settings.

``-D quick_studies=1`` runs all studies with ``--quick``, two at a time, while the tutorials are run.
"""

import contextlib
import io
import multiprocessing
import runpy
import shutil
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import matplotlib.image
import matplotlib.pyplot

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "generated" / "studies"
QUICK = PAGES / "quick"
STUDIES = [
    path
    for folder in ("studies", "studies/networks")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "__main__" in path.read_text()
]


def name_of(study: Path) -> str:
    """What its results are called."""
    return f"networks_{study.stem}" if study.parent.name == "networks" else study.stem


def doc_of(study: Path) -> tuple[str, str]:
    """Title (the first line up to a colon) and text."""
    text = study.read_text().split('"""')[1].strip()
    return text.splitlines()[0].split(":")[0].rstrip(".?"), text


def kept(study: Path, suffix: str) -> list[Path]:
    """Its results in ``data``."""
    return sorted(
        path for path in (ROOT / "data").glob(f"*{suffix}")
        if path.stem == name_of(study) or path.stem.startswith(f"{name_of(study)}_")
    )  # fmt: skip


def page(study: Path, quick: bool) -> str:
    """The page of a study, in reStructuredText."""
    title, text = doc_of(study)
    script = study.relative_to(ROOT).as_posix()
    named = [
        p.stem
        for p in sorted((ROOT / "docs").glob("*.md"))
        if script in p.read_text() or f"data/{name_of(study)}" in p.read_text()
    ]
    files = ", ".join(
        f":download:`{p.name} <../../../{p.relative_to(ROOT)}>`" for p in (study, *kept(study, ".csv"))
    )
    lines = [
        title,
        "=" * len(title),
        "",
        text,
        "",
        "Kept result",
        "-----------",
        "",
        f"``python {script}`` made it. {files}.",
        "",
    ]
    lines += [f"Discussed in {', '.join(f':doc:`/{stem}`' for stem in named)}.", ""] * bool(named)
    lines += [f".. image:: ../../../data/{path.name}\n" for path in kept(study, ".png")]
    if quick:
        lines += [
            "With quick settings",
            "-------------------",
            "",
            f"``python {script} --quick``, run when this page was made, draws",
        ]
        lines += ["", f".. image:: quick/{name_of(study)}.png", "", "and prints", ""]
        lines += [f".. literalinclude:: quick/{name_of(study)}.txt", "   :language: none", ""]
    return "\n".join(lines)


def card(study: Path) -> str:
    """Thumbnail and title, as in the gallery of tutorials."""
    name, (title, _) = name_of(study), doc_of(study)
    matplotlib.image.thumbnail(kept(study, ".png")[0], PAGES / f"{name}_small.png", scale=0.25)
    return f"""
.. raw:: html

    <div class="sphx-glr-thumbcontainer" tooltip="{title}">

.. image:: {name}_small.png
   :alt:

:doc:`/generated/studies/{name}`

.. raw:: html

      <div class="sphx-glr-thumbnail-title">{title}</div>
    </div>
"""


def run(study: Path) -> str:
    """Run it quick, as a script; keep what it draws and prints, and return how long it took."""
    matplotlib.use("agg")
    name, begin, said = study.relative_to(ROOT).as_posix(), time.perf_counter(), io.StringIO()
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(io.StringIO()),  # bars of progress
        mock.patch.object(sys, "argv", [name, "--quick", "--out", str(QUICK)]),
        mock.patch.object(sys, "path", [str(study.parent), *sys.path]),
    ):
        try:
            runpy.run_path(str(study), run_name="__main__")
        except BaseException:  # SystemExit, too
            raise RuntimeError(f"{name} --quick failed:\n{said.getvalue()}{traceback.format_exc()}") from None
    matplotlib.pyplot.close("all")
    (QUICK / f"{name_of(study)}.txt").write_text(said.getvalue() or "nothing\n")
    return f"{name}: {time.perf_counter() - begin:.0f} s"


def write(app) -> None:
    """Write all pages, and begin to run the studies if that is wanted."""
    shutil.rmtree(PAGES, ignore_errors=True)  # those of studies that are gone
    QUICK.mkdir(parents=True)
    for study in STUDIES:
        (PAGES / f"{name_of(study)}.rst").write_text(page(study, app.config.quick_studies))
    cards, toctree = map(card, STUDIES), (f"   /generated/studies/{name_of(study)}" for study in STUDIES)
    lines = ["Gallery", "=======", "", "Every study, with its question, its kept figure and its table.", ""]
    lines += [
        ".. raw:: html",
        "",
        '    <div class="sphx-glr-thumbnails">',
        *cards,
        ".. raw:: html",
        "",
        "    </div>",
        "",
    ]
    (PAGES / "index.rst").write_text("\n".join([*lines, ".. toctree::", "   :hidden:", "", *toctree, ""]))
    pool = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))  # they share imports and programs
    app.quick_studies = pool.map(run, STUDIES if app.config.quick_studies else [])


def wait(app, *_) -> None:
    """Until the studies are done; here, as output in between would be taken for that of a tutorial."""
    for line in app.quick_studies:
        print(line, flush=True)


def setup(app) -> dict:
    """The extension."""
    app.add_config_value("quick_studies", False, "env", types=(bool, int, str))
    app.connect("builder-inited", write, priority=400)  # before the tutorials
    app.connect("env-before-read-docs", wait)
    return {"parallel_read_safe": True}
