"""The pages that code and README name exist, so do their sections, and some words are not used."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for folder in ("stedyn", "studies", "tests", "docs", ".")
    for path in (ROOT / folder).glob("*.*" if folder in ("docs", ".") else "**/*.py")
    if path.suffix in (".py", ".md") and path != Path(__file__)
}
PAGE, SECTIONS = r"docs/[\w-]+\.md", r"docs/theory\.md`*[,:]?\s+sections?\s+([\d, and]+|\d+ to \d+)"


def test_every_page_that_is_named_is_there():
    named = {(page, name) for name, text in TEXTS.items() for page in re.findall(PAGE, text)}
    assert len(named) > 40
    assert not {(page, name) for page, name in named if not (ROOT / page).is_file()}
    targets = {
        (link, n)
        for n, text in TEXTS.items()
        if n.endswith(".md")
        for link in re.findall(r"\]\(([\w./-]+)\)", text)
    }
    assert not {(link, name) for link, name in targets if not ((ROOT / name).parent / link).exists()}


def test_every_page_is_named_in_the_readme_or_in_a_page_that_is():
    known, todo = set(), ["README.md"]
    while todo:
        name = todo.pop()
        pages = set(re.findall(PAGE, TEXTS[name])) | {
            f"docs/{link}" for link in re.findall(r"\(([\w-]+\.md)\)", TEXTS[name])
        }
        todo += pages - known
        known |= pages
    assert {name for name in TEXTS if re.fullmatch(PAGE, name)} <= known


def test_every_section_that_is_cited_is_there():
    there = set(re.findall(r"^## (\d+)\.", TEXTS["docs/theory.md"], flags=re.MULTILINE))
    cited = {
        n
        for text in TEXTS.values()
        for found in re.findall(SECTIONS, text)
        for n in re.findall(r"\d+", found)
    }
    assert len(cited) > 5
    assert cited <= there
    assert not [name for name, text in TEXTS.items() if re.search(r"``docs``|theory sections? \d", text)]


def test_every_equation_of_the_theory_has_its_number_and_a_check():
    theory, checks = TEXTS["docs/theory.md"].split("\n## 9. Checks\n")
    labels = re.findall(r"^:label: theory-eq-(\d+)$", theory, flags=re.MULTILINE)
    assert labels == [str(n + 1) for n in range(theory.count("```{math}"))]
    rows = re.findall(r"^\| \{eq\}.*$", checks, flags=re.MULTILINE)
    checked = [n for row in rows for n in re.findall(r"theory-eq-(\d+)", row.split(" | ")[0])]
    assert checked == labels
    assert all("`tests/" in row for row in rows)
    cited = {n for text in TEXTS.values() for n in re.findall(r"docs/theory\.md``, equation (\d+)", text)}
    assert len(cited) > 4
    assert cited <= set(labels)


def test_every_test_that_a_page_names_is_there():
    named = {
        pair
        for name, text in TEXTS.items()
        if name.endswith(".md")
        for pair in re.findall(r"(tests/[\w/]+\.py)::(\w+)", text)
    }
    assert len(named) > 30
    assert not {(file, test) for file, test in named if f"def {test}(" not in TEXTS[file]}


@pytest.mark.parametrize(
    "words", [r"\bmend(s|ed|ing)?\b", r"\bone's own\b", r"\b(comes?|came) to\b", r"\buser's own\b"]
)
def test_plain_english(words):
    assert not {name for name, text in TEXTS.items() if re.search(words, text) and name.startswith("stedyn/")}
