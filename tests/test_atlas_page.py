"""The atlas of the site in a real browser, without a server; skipped where there is none."""

import json
from pathlib import Path

import pytest
from browser import chromium, needs_browser, watched

ROOT = Path(__file__).parent.parent
pytestmark = [needs_browser, pytest.mark.filterwarnings("default")]


def test_the_atlas_draws_its_numbers_from_a_file(tmp_path):
    text = (ROOT / "data/atlas.json").read_text()
    script = (ROOT / "docs/_static/atlas.js").read_text()
    (tmp_path / "atlas.html").write_text(
        f'<!doctype html><meta name="viewport" content="width=device-width"><div id="atlas-map"></div>'
        f'<script type="application/json" id="atlas-data">{text}</script><script>{script}</script>'
    )
    data = json.loads(text)
    with chromium() as browser:
        page, errors = watched(browser, viewport={"width": 400, "height": 800})
        page.goto((tmp_path / "atlas.html").as_uri())
        rates, ranges = len(data["lrs"]), len(data["ranges"])
        assert page.locator("#atlas-map rect[data-range]").count() == rates * ranges
        assert page.locator("#atlas-map polyline").count() == len(data["entries"])
        page.get_by_role("combobox", name="bits").select_option(label="3")
        page.get_by_role("combobox", name="show").select_option(index=1)
        page.locator(f'#atlas-map rect[data-lr="1"][data-range="{ranges // 2}"]').click()
        expected = data["entries"][1]["error"][1][ranges // 2]
        assert page.get_by_role("status").inner_text().endswith(f"error {float(f'{expected:.3g}'):g}")
        assert page.get_by_role("combobox", name="learning rate").input_value() == "1"
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert not errors
