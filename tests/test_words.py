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


@pytest.mark.parametrize(
    "words", [r"\bmend(s|ed|ing)?\b", r"\bone's own\b", r"\b(comes?|came) to\b", r"\buser's own\b"]
)
def test_plain_english(words):
    assert not {name for name, text in TEXTS.items() if re.search(words, text) and name.startswith("stedyn/")}
