"""The reports of made-up rungs: JUnit that CI systems read, and a page that a browser renders."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from engines.parity.measure import MISSING
from engines.parity.record import ParityPictures, Rung
from engines.report import verdict, write_junit, write_report
from engines.report.page import likeness
from exporter.bundle import Bundle
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from tests.conftest import SHAPES
from tests.engines.made_up import RIGHT, WRONG, made_up

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.fixture(scope="module")
def bundle(pipelines: object, make_bundle: object) -> Bundle:
    opened = open_pipeline(SHAPES / "shapes-sd", weights=False)
    chosen = Options(steps=10, interval=5)
    return make_bundle("shapes-sd", search(opened, "deepcache", chosen))  # type: ignore[operator]


@pytest.fixture
def pictures() -> ParityPictures:
    ramp = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    return ParityPictures(ramp, ramp, {RIGHT.name: ramp, WRONG.name: ramp[::-1].copy()})


def test_junit_has_a_case_per_rung_and_graph(bundle: Bundle, tmp_path: Path) -> None:
    write_junit(tmp_path / "junit.xml", bundle, made_up(RIGHT, WRONG))
    root = ET.parse(tmp_path / "junit.xml").getroot()
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["manifest", "gated PyTorch", RIGHT.name, WRONG.name]
    cases = [case.get("name") for case in suites[RIGHT.name]]
    assert cases == [
        "step_000.onnx on given inputs, steps 0, 2",
        "step_000.onnx on its own trajectory, steps 0, 2",
        "step_001.onnx on given inputs, steps 1, 3",
        "step_001.onnx on its own trajectory, steps 1, 3",
        "final latents, decoder and second pass",
    ]
    assert (root.get("tests"), root.get("failures")) == ("12", "1")
    (failed,) = root.iter("failure")
    assert failed.get("message") == WRONG.failures[0]
    assert all(len(suite) == int(suite.get("tests", "")) for suite in root)


def test_junit_holds_no_character_that_xml_cannot(bundle: Bundle, tmp_path: Path) -> None:
    bad = replace(RIGHT, failures=("call \x00 and <&>",))
    write_junit(tmp_path / "junit.xml", bundle, made_up(bad))
    (failed,) = ET.parse(tmp_path / "junit.xml").getroot().iter("failure")
    assert failed.get("message") == "call ? and <&>"


def test_the_verdict_is_of_the_engine_that_is_off_most() -> None:
    assert verdict(made_up(RIGHT, WRONG)) == (
        "Parity FAILS: openvino on cpu, 4 calls, worst call 3.0e-04 (allowed 5.0e-06), final latents "
        "1.0e-06 (allowed 5.0e-06), picture against the SubNet's in PyTorch identical; the limit is 5 x the "
        "rounding error. Quality, not part of parity: the SubNet's picture against the full sampler's PSNR 30.0 dB"
    )
    assert verdict(made_up(RIGHT)).startswith("Parity holds: onnxruntime on cpu")


@pytest.mark.parametrize(
    ("psnr", "words"), [(math.inf, "identical"), (math.nan, "none"), (61.26, "61.3 dB")]
)
def test_a_likeness_in_words(psnr: float, words: str) -> None:
    assert likeness(psnr) == words


def test_the_json_has_no_number_that_json_lacks(
    bundle: Bundle, pictures: ParityPictures, tmp_path: Path
) -> None:
    call = replace(RIGHT.calls[0], free=MISSING)
    parity = made_up(replace(RIGHT, calls=(call,), failures=("stopped",)))
    write_report(tmp_path, bundle, parity, pictures)
    text = (tmp_path / "parity.json").read_text()
    data = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert data["passed"] is False
    assert data["rungs"][2]["calls"][0]["free"]["relative"] == "nan"
    assert data["rungs"][1]["psnr"] == "inf"


def test_the_page_brings_everything_it_shows(
    bundle: Bundle, pictures: ParityPictures, tmp_path: Path
) -> None:
    text = write_report(tmp_path, bundle, made_up(RIGHT, WRONG), pictures).read_text()
    assert "a &lt;b&gt;red&lt;/b&gt; circle &amp; {more}" in text
    assert WRONG.failures[0].replace("'", "&#39;") in text
    assert text.count("data:image/png;base64,") == 6
    assert text.count("<svg") == 3, "two engines and the grid"
    for outside in ('src="http', 'href="http', "url(http", "<script", "@import"):
        assert outside not in text


def test_of_a_video_the_middle_frame_is_shown(
    bundle: Bundle, pictures: ParityPictures, tmp_path: Path
) -> None:
    still, black = pictures.full, np.zeros_like(pictures.full)
    video = np.stack([black, still, black])
    shown = [
        write_report(tmp_path / name, bundle, made_up(RIGHT), each).read_text()
        for name, each in (
            ("still", ParityPictures(still, still, {RIGHT.name: still})),
            ("video", ParityPictures(video, video, {RIGHT.name: video})),
        )
    ]
    sources = [re.findall(r"data:image/png;base64,[^\"]+", text) for text in shown]
    assert sources[0] == sources[1]
    assert len(sources[0]) == 4


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")
@pytest.mark.parametrize(("engines", "colour"), [((RIGHT,), "green"), ((RIGHT, WRONG), "red")])
def test_a_browser_renders_the_page(
    bundle: Bundle,
    pictures: ParityPictures,
    tmp_path: Path,
    engines: tuple[Rung, ...],
    colour: str,
) -> None:
    page = write_report(tmp_path, bundle, made_up(*engines), pictures)
    shot = tmp_path / "page.png"
    logged, rendered = browse(page, shot, tmp_path / "profile")
    assert "CONSOLE" not in logged
    assert 'id="verdict"' in rendered
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    top = pixels[:300]
    red, green = top[..., 0] - top[..., 1] > 80, top[..., 1] - top[..., 0] > 60
    seen = {"red": red.sum(), "green": green.sum()}
    assert seen.pop(colour) > 20_000, "the verdict's bar"
    assert max(seen.values()) < 5_000
    assert (pixels[-200:] < 250).any(), "the page does not end before the window"


def browse(page: Path, shot: Path, profile: Path) -> tuple[str, str]:
    """What the browser logs, and the page as it is after loading; a screenshot of it in `shot`."""
    base = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    base += [f"--user-data-dir={profile}", "--window-size=1120,1900", "--enable-logging=stderr"]
    logged, rendered = "", ""
    for task in (f"--screenshot={shot}", "--dump-dom"):
        done = subprocess.run(
            [*base, task, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        logged, rendered = logged + done.stderr, done.stdout
    return logged, rendered
