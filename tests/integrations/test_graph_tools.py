"""Tools of others read the graphs of a bundle as they are: ONNX's checker, Polygraphy, Netron, ONNX Runtime's own."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from exporter.bundle import Bundle

POLYGRAPHY = [sys.executable, "-c", "from polygraphy.tools import main; raise SystemExit(main())"]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.fixture(scope="module")
def bundle(made: Path) -> Bundle:
    return Bundle.open(made / "bundle")


def test_every_graph_passes_the_checker_of_onnx(bundle: Bundle) -> None:
    for name in bundle.models:
        onnx.checker.check_model(bundle.path / name, full_check=True)


def test_polygraphy_lists_inputs_outputs_and_nodes(bundle: Bundle) -> None:
    path = bundle.path / bundle.graphs[0]
    graph = onnx.load(path, load_external_data=False).graph
    line = [*POLYGRAPHY, "inspect", "model", str(path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for what, each in (("Graph Input", graph.input), ("Graph Output", graph.output)):
        assert f"---- {len(each)} {what}(s) ----" in done.stdout
        assert all(tensor.name in done.stdout for tensor in each)
    assert f"---- {len(graph.node)} Node(s) ----" in done.stdout


@pytest.mark.slow
def test_polygraphy_runs_a_graph_as_we_do(bundle: Bundle, tmp_path: Path) -> None:
    """On inputs of its own, which it saves, and the outputs too."""
    from polygraphy.json import load_json

    name = bundle.decoder
    files = {"--save-inputs": tmp_path / "in.json", "--save-outputs": tmp_path / "out.json"}
    line = [*POLYGRAPHY, "run", str(bundle.path / name), "--onnxrt"]
    line += [str(word) for pair in files.items() for word in pair]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [fed] = load_json(str(files["--save-inputs"]))
    [[_, [made]]] = load_json(str(files["--save-outputs"])).items()

    from engines.base import make_engine
    from engines.runner import Runner

    [latents] = fed.values()
    ours = Runner(bundle, make_engine("onnxruntime", "cpu")).decode(np.asarray(latents))
    np.testing.assert_allclose(np.moveaxis(np.asarray(made["image"]), 1, -1), ours, atol=1e-5)


@pytest.mark.slow  # fetches Netron from the index
@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")
@pytest.mark.filterwarnings("ignore")  # of playwright and its event loop
def test_netron_draws_every_node(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from playwright.sync_api import expect, sync_playwright

    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*install, "netron==9.3.3"], check=True)
    monkeypatch.syspath_prepend(tmp_path)
    netron = importlib.import_module("netron")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name in (bundle.graphs[0], bundle.conditioner, bundle.decoder):
            graph = onnx.load(bundle.path / name, load_external_data=False).graph
            drawn = len(graph.node) + len(graph.input) + len(graph.output)
            place = ("127.0.0.1", 0)
            host, port = netron.start(str(bundle.path / name), address=place, browse=False)
            page = browser.new_page()
            page.route(lambda url: "127.0.0.1" not in url, lambda route: route.abort())
            page.goto(f"http://{host}:{port}/")
            page.get_by_text("Accept").click()  # it asks before it reports to its makers
            expect(page.locator("g.node")).to_have_count(drawn, timeout=60_000)
            page.close()
            netron.stop((host, port))
