"""The local page in a real browser, against ``solve``; skipped where there is none."""

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from browser import answered, change, chromium, needs_browser, newest, watched

from stedyn import solve
from stedyn.explore.answers import Band, RangeCurve, Refused, first
from stedyn.explore.view import View
from stedyn.files.problems import load_problem

pytestmark = [needs_browser, pytest.mark.filterwarnings("default")]
#: Milliseconds: programs are compiled first.
PATIENCE = 120_000
#: A problem whose first answer is accurate: what it says of its own error is the tolerance below.
START = View().with_text("weights", "range", "1.3").with_text("run", "tau", "60")
#: Data of a figure by the name of its source.
DATA = """name => {
  const data = Bokeh.documents[0].get_model_by_name(name).data
  return Object.fromEntries(Object.entries(data).map(([key, values]) => [key, Array.from(values)]))
}"""


def _later_stages(problem, dim):
    """In the place of `answers.stages`, which compiles for minutes and has a test of its own: what it hands out."""
    yield Refused("fixed point", "no fixed point in this test")
    yield RangeCurve(np.array([1.0, 2.0]), np.array([0.5, 0.2]), "final error", {"max": 1.5, "mse": 1.2})
    yield Band(np.array([0.0, 1.0]), np.array([1.0, 1.0]), np.array([0.1, 0.1]), dim)


def _listens(host, port):
    """Wait until a server does."""
    for _ in range(600):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, port)):
            return
        time.sleep(0.1)


@pytest.fixture(scope="module")
def address():
    from stedyn.explore import page
    from stedyn.explore.server import ADDRESS, free_port, serve

    port = free_port(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "stages", _later_stages)
        server = serve(START, port, threaded=True)
        _listens(ADDRESS, port)
        yield f"http://{ADDRESS}:{port}/"
        server.stop()


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def opened(browser, address):
    """The page with its first answer, and its errors."""
    context = browser.new_context(
        viewport={"width": 1200, "height": 900}, permissions=["clipboard-read", "clipboard-write"]
    )
    page, errors = watched(context)
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    answered(page, 1)
    return page, errors


def _view(page):
    return View.parse(dict(parse_qsl(urlsplit(page.url).query)), View())


def _same(page, problem):
    """The curve of the page is that of the problem in one pass, number by number."""
    (curve,) = first(problem)
    tau, error = curve.solution.dense
    shown = page.evaluate(DATA, "line")
    np.testing.assert_allclose(shown["x"], tau, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(shown["y"], error, rtol=1e-6)


def test_the_page_shows_what_solve_gives_before_and_after_the_range_moves(opened):
    page, errors = opened
    solution = solve(START.problem())
    final, marked = page.evaluate(DATA, "line")["y"][-1], page.evaluate(DATA, "plateaus")
    claimed = float(page.locator("[role=status]").inner_text().split("below ")[1].split(";")[0])
    assert claimed < 0.1
    assert abs(final / solution.final_error - 1) < claimed + solution.error_estimate
    assert abs(marked["right"][0] / solution.plateaus()[0].end - 1) < 0.02
    change(page, "weights-range", "1.5")
    assert page.evaluate(DATA, "line")["y"][-1] != final
    page.wait_for_function("location.search.includes('1.5')")
    assert float(_view(page).problem().weights.range) == 1.5
    _same(page, _view(page).problem())
    assert not errors


def test_what_takes_longer_is_shown_when_it_is_there(opened):
    page, errors = opened
    page.locator('[data-stage="done"]').wait_for()
    page.get_by_text("no fixed point in this test").wait_for()
    page.get_by_text("least final error 0.2 at range 2").wait_for()
    assert page.evaluate(DATA, "rules")["rule"] == ["mse", "max"]
    assert page.evaluate(DATA, "band")["high"] == [1.1, 1.1]
    assert not errors


def test_plateaus_vanish_and_appear(opened):
    page, errors = opened
    page.locator(".card-start").get_by_text("Start", exact=True).click()
    change(page, "start-std", "1.0")
    assert page.evaluate(DATA, "plateaus")["left"] == []
    change(page, "start-std", "0.02")
    assert page.evaluate(DATA, "plateaus")["left"] == [0]
    assert not errors


def test_a_bad_number_is_answered_at_its_control_and_the_curve_stays(opened):
    page, errors = opened
    before, number = page.evaluate(DATA, "line")["y"], newest(page)
    for value, found in (("-1", "-1.0"), ("abc", "'abc'"), ("1e999", "inf")):
        page.locator(".weights-range input").first.fill(value)
        page.locator(".weights-range input").first.press("Enter")
        page.get_by_role("alert").filter(has_text=found).wait_for()
        assert page.get_by_role("alert").count() == 1
    assert page.evaluate(DATA, "line")["y"] == before
    assert newest(page) == number
    change(page, "weights-range", "1.3")
    assert page.get_by_role("alert").count() == 0
    assert not errors


def test_time_moves_in_the_browser(opened):
    page, errors = opened
    end = page.evaluate(DATA, "cursor")["x"]
    slider = page.locator("input[type=range]").last
    slider.focus()
    slider.press("ArrowLeft")
    page.wait_for_function(f"({DATA})('cursor').x[0] < {end[0]}")
    slider.press("ArrowRight")
    page.wait_for_function(f"({DATA})('cursor').x[0] === {end[0]}")
    assert not errors


def test_a_simulation_is_laid_over_the_curve_and_another_is_cancelled(opened):
    page, errors = opened
    for dim, seeds, text in (("200", "2", "done in"), ("100000", "1", "cancelled")):
        change(page, "page-dim", dim)
        change(page, "page-seeds", seeds)
        page.get_by_role("button", name="Simulate").click()
        if text == "cancelled":
            page.get_by_role("button", name="Cancel").click()
        page.get_by_text(text).wait_for()
        if text == "done in":
            runs, curve = page.evaluate(DATA, "runs"), page.evaluate(DATA, "line")
            assert len(runs["x"]) == 33
            assert abs(runs["y"][0] - curve["y"][0]) < 0.2
    assert page.get_by_role("button", name="Simulate").is_enabled()
    assert not errors


def _copied(page):
    """The text of the clipboard, once there is one."""
    return page.evaluate("""async () => {
      for (let k = 0; k < 1000; k++) {
        const text = await navigator.clipboard.readText()
        if (text) return text
        await new Promise(resolve => setTimeout(resolve, 50))
      }
    }""")


def test_the_copied_file_predicts_the_same_curve(opened, tmp_path):
    page, errors = opened
    page.get_by_text("Problem", exact=True).click()
    page.get_by_role("button", name="Copy TOML").click()
    (tmp_path / "problem.toml").write_text(_copied(page))
    _same(page, load_problem(tmp_path / "problem.toml"))
    with page.expect_download() as download:
        page.get_by_text("Download problem.toml").click()
    assert download.value.path().read_text() == (tmp_path / "problem.toml").read_text()
    assert not errors


def test_the_address_opens_the_view_again_at_400_pixels_in_the_dark(opened, browser):
    page, _ = opened
    other, errors = watched(browser, viewport={"width": 400, "height": 800}, color_scheme="dark")
    other.set_default_timeout(PATIENCE)
    other.goto(page.url)
    other.wait_for_url("**theme=dark*")
    answered(other, 1)
    assert _view(other) == _view(page)
    assert other.evaluate("document.documentElement.scrollWidth") <= 400
    red, green, blue = other.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )[:3]
    assert red + green + blue < 3 * 80
    assert not errors
    other.close()


def test_keys_alone_move_a_slider(opened):
    page, errors = opened
    number = newest(page)
    page.locator(".noise-std-slider .noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    answered(page, number + 1)
    assert page.locator(".noise-std input").first.input_value() == "0.11"
    assert not errors


def _connected(address, origin):
    """The status with which the server answers a page of this origin that wants to connect."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    headers = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13", "Origin": origin,
    }  # fmt: skip
    connection.request("GET", "/ws", headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_other_origins_are_refused(address):
    assert _connected(address, "http://example.org") == 403
    assert _connected(address, address.rstrip("/")) == 101


@pytest.mark.slow
def test_ctrl_c_ends_it_while_a_program_is_compiled():
    from stedyn.explore.server import ADDRESS, free_port

    port = free_port(0)
    command = [sys.executable, "-m", "stedyn", "explore", "--no-open", "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    _listens(ADDRESS, port)
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=60)
    connection.request("GET", "/")  # a page of its own, which begins to compute
    assert connection.getresponse().status == 200
    time.sleep(3)
    server.send_signal(signal.SIGINT)
    _, said = server.communicate(timeout=60)
    assert server.returncode == 0
    assert len(said.splitlines()) == 1
