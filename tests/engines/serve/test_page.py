"""The page, in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

import numpy as np
import pytest

from tests.engines.serve.gate import Gate, Running, pixels, until

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")


@pytest.mark.filterwarnings("ignore")  # of playwright and its event loop
def test_a_person_makes_a_picture(
    start: Callable[..., Running], gate: Gate, alone: Callable[..., np.ndarray]
) -> None:
    from playwright.sync_api import expect, sync_playwright

    running = start(token="secret")
    logged: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1120, "height": 900})
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.goto(running.address)
        expect(page.locator("#error")).to_contain_text("the token is missing")
        page.fill("#token", "secret")
        page.press("#token", "Tab")
        expect(page.locator("#model option")).to_have_count(1)
        expect(page.locator("#about")).to_have_text("full: 4 calls in 4 steps")
        expect(page.locator("#cut")).to_contain_text("100.0 %")
        expect(page.locator("#cut")).to_contain_text("computed. Each column is a step")
        grid = page.eval_on_selector(
            "#grid", "e => [...e.getContext('2d').getImageData(e.width - 4, 3, 1, 1).data]"
        )
        assert grid[:3] != [0, 0, 0]
        page.fill("#prompt", "a red circle")
        page.fill("#seed", "5")
        gate.close()
        page.click("#make")
        gate.wait_for_run()
        expect(page.locator("#make")).to_be_disabled()
        page.click("#stop")
        expect(page.locator("#status")).to_have_text("Stopped")
        until(lambda: running.metric("stepcarve_held_requests", "secret") == 0)
        gate.open()
        page.click("#make")
        expect(page.locator("#status")).to_contain_text("steps/s: 4 steps in 4 calls, ")
        shown = page.get_attribute("#picture", "src") or ""
        made = pixels(re.sub(r"^data:image/png;base64,", "", shown))
        np.testing.assert_array_equal(made, alone("a red circle", 5, on_call=lambda *_: None))
        page.fill("#guidance", "0.5")
        page.click("#make")
        expect(page.locator("#error")).to_contain_text("switches guidance off")
        browser.close()
    assert logged == []
