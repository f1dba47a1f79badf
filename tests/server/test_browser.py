"""A page served elsewhere follows a task in a real Chromium."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from nbgen.server import Server
from nbgen.studio import Studio

pytestmark = pytest.mark.browser

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

WAITING = "Waiting for generation to start..."

# Keeps what the page's socket gets, beside what the page does with it.
RECORD = """
window.frames_seen = []; window.close_code = null;
const Original = window.WebSocket;
window.WebSocket = class extends Original {
  constructor(...args) {
    super(...args);
    this.addEventListener("message", (e) => frames_seen.push(JSON.parse(e.data)));
    this.addEventListener("close", (e) => { window.close_code = e.code; });
  }
};
"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Serve the examples from a port of their own and return its origin."""
    handler = partial(_Quiet, directory=str(EXAMPLES))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as pages:
        thread = threading.Thread(target=pages.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{pages.server_port}"
        pages.shutdown()
        thread.join()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    page.add_init_script(RECORD)
    yield page
    page.close()


def test_a_page_from_elsewhere_sees_every_step(
    page: Page, elsewhere: str, studio: Studio, server: Server
) -> None:
    page.goto(f"{elsewhere}/watch.html?server={server.url}&task=hero-1")
    expect(page.get_by_text(WAITING)).to_be_visible()
    studio.generate("a cat", task_id="hero-1", num_inference_steps=20)
    page.wait_for_function("window.close_code !== null")
    first, *frames = page.evaluate("frames_seen")
    assert first["type"] == "status"
    steps: list[int] = []
    for frame in frames:
        if frame["current_step"] not in (0, *steps):
            steps.append(frame["current_step"])
            stage = "base_model" if frame["current_step"] <= 16 else "refiner_model"
            assert frame["current_stage"] == stage
    assert steps == list(range(1, 21))
    assert [f["status"] for f in frames].count("completed") == 1
    assert (frames[-1]["status"], frames[-1]["percentage"]) == ("completed", 100)
    assert page.evaluate("close_code") == 1000
    expect(page.locator("#bar")).to_have_js_property("value", 100)
    expect(page.get_by_text("20 of 20 steps")).to_be_visible()
    page.wait_for_function("document.getElementById('picture').naturalWidth === 64")


def test_a_page_shows_what_went_wrong(
    page: Page, elsewhere: str, studio: Studio, server: Server
) -> None:
    studio.generate("a cat", task_id="a").result(10)
    studio.close()
    page.goto(f"{elsewhere}/watch.html?server={server.url}&task=a%2Fb")
    expect(page.get_by_text("The connection broke. Trying again…")).to_be_visible()


@pytest.mark.parametrize("allowed", [True, False])
def test_a_page_of_a_stranger_connects_only_if_allowed(
    page: Page, studio: Studio, make_server: Callable[..., Server], allowed: bool
) -> None:
    stranger = "http://stranger.example"
    server = make_server(studio, allow_origins=[stranger] if allowed else [])
    # The name leads nowhere; the page is given to the browser in its place.
    page.route(
        f"{stranger}/**",
        lambda route: route.fulfill(path=str(EXAMPLES / "watch.html")),
    )
    page.goto(f"{stranger}/watch.html?server={server.url}&task=a")
    said = WAITING if allowed else "The connection broke. Trying again…"
    expect(page.get_by_text(said)).to_be_visible()
    assert len(page.evaluate("frames_seen")) == allowed
