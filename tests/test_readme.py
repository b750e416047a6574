"""What the README says can be run, runs; and the studies run quick."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
STUDIES = sorted(path.stem for path in (ROOT / "studies").glob("*.py"))
NETWORKS = sorted(path.stem for path in (ROOT / "studies" / "networks").glob("*.py") if path.stem != "shared")


@pytest.mark.slow  # .ci/run runs it
@pytest.mark.parametrize("index, name", list(enumerate(["README.md", "docs/choosing.md", "docs/rules.md"])))
def test_the_lines_of_python_run(tmp_path, index, name):
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    assert "assert" in snippet
    # in an interpreter of its own: the order in which modules are imported must not matter
    done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("Theory and simulation" in done.stdout) == (index == 0)


def test_the_problem_file_is_valid(tmp_path):
    from stedyn.files.problems import load_problem

    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/command-line.md").read_text(), re.DOTALL)
    (tmp_path / "p.toml").write_text(text)
    assert load_problem(tmp_path / "p.toml").latent_clip == 2.0


def test_every_picture_and_link_exists():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_site_has_every_page_and_every_public_name():
    import stedyn

    index, reference = ((ROOT / "docs" / name).read_text() for name in ("index.md", "reference.md"))
    listed = re.findall(r"^([a-z-]+)$", index, re.MULTILINE)
    assert sorted(listed) == sorted({path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"})
    assert set(stedyn.__all__) <= set(re.findall(r"^   (\w+)$", reference, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_quick(tmp_path, monkeypatch, name):
    monkeypatch.syspath_prepend(ROOT / "studies")  # some import another
    runpy.run_path(str(ROOT / "studies" / f"{name}.py"))["main"](quick=True, out=tmp_path)
    page = {"atlas.json"} if name == "atlas" else set()  # what the page of the site draws
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.csv", f"{name}.png"} | page


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_study_of_networks_runs_quick(tmp_path, name):
    pytest.importorskip("optax", reason="needs the extra 'studies'")
    script = ROOT / "studies" / "networks" / f"{name}.py"
    subprocess.run([sys.executable, script, "--quick", "--out", tmp_path], check=True)
    assert {f"networks_{name}.csv", f"networks_{name}.png"} <= {path.name for path in tmp_path.iterdir()}
