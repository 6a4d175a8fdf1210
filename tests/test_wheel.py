"""The wheel in environments of their own, with the extra `run` alone: no torch, a picture, its size."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cli import MODULES
from exporter.bundle import Bundle
from search.core.subnet import SubNet
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline

ROOT = Path(__file__).parent.parent
MOST = 200e6
"""Bytes that the extra `run` takes, ONNX Runtime included."""

pytestmark = pytest.mark.slow  # installs packages from the index


def pip(*arguments: object) -> None:
    line = [sys.executable, "-m", "pip", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for each in ("engines", "exporter", "search"):  # builds leave files beside the sources
        shutil.copytree(ROOT / each, source / each)
    for each in ("cli.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / each, source)
    pip("wheel", "-q", "--no-deps", "-w", folder, source)
    return next(folder.glob("stepcarve-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel's extra `run`, and not even pip."""
    place = tmp_path_factory.mktemp("environment") / "run"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python, pins = place / "bin" / "python", ROOT / "constraints.txt"
    pip("--python", python, "install", "-q", "--no-compile", "-c", pins, f"{wheel}[run]")
    return place


def stepcarve(place: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [place / "bin" / "stepcarve", *arguments]
    path = {"PATH": "/usr/bin:/bin"}  # nothing of this environment
    return subprocess.run(
        [str(each) for each in line], capture_output=True, text=True, check=False, env=path
    )


def test_a_bundle_runs_where_only_what_runs_it_is_installed(
    installed: Path,
    pipelines: Callable[[str], Path],
    make_bundle: Callable[[str, SubNet], Bundle],
    tmp_path: Path,
) -> None:
    from engines.base import make_engine
    from engines.runner import Runner

    opened = open_pipeline(pipelines("shapes-sd"), weights=False)
    bundle = make_bundle("shapes-sd", search(opened, "deepcache", Options(steps=6, interval=3)))
    prompt = "a large red cross left on a grey field"
    done = stepcarve(
        installed, "run", bundle.path, "--prompt", prompt, "--seed", 5,
        "-o", tmp_path / "out.png", "--save-latents", tmp_path / "out.npy",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    here = Runner(bundle, make_engine("onnxruntime", "cpu")).run(prompt, seed=5)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), here.latents, rtol=1e-3, atol=1e-4)

    [site] = (installed / "lib").glob("python*/site-packages")
    names = {each.name for each in site.iterdir()}
    assert "onnxruntime" in names
    assert not {"torch", "diffusers", "transformers", "onnx", "scipy"} & names
    held = sum(each.stat().st_size for each in site.rglob("*") if each.is_file())
    assert held < MOST, f"{held / 1e6:.0f} MB"


@pytest.mark.parametrize("command", MODULES)
def test_the_help_of_every_command_needs_no_more(installed: Path, command: str) -> None:
    done = stepcarve(installed, command, "--help")
    assert done.returncode == 0, done.stderr


def test_what_is_missing_is_named_with_the_extra_that_brings_it(installed: Path) -> None:
    shapes = ROOT / "examples" / "shapes" / "shapes-sd"
    done = stepcarve(installed, "search", shapes, "-o", "never.json", "--method", "full")
    assert done.returncode == 2
    assert "which is not installed; install stepcarve with its extra 'search'" in done.stderr


def test_the_command_completes_itself_in_shells(installed: Path) -> None:
    line = [installed / "bin" / "stepcarve"]
    for shell in ("bash", "zsh", "fish"):
        asked = {"PATH": "/usr/bin:/bin", "_STEPCARVE_COMPLETE": f"{shell}_source"}
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=asked)
        if shell != "bash":  # click asks bash itself for its version
            assert done.returncode == 0, done.stderr
            assert "_STEPCARVE_COMPLETE" in done.stdout
    words = {"PATH": "/usr/bin:/bin", "COMP_WORDS": "stepcarve opt", "COMP_CWORD": "1"}
    asked = {**words, "_STEPCARVE_COMPLETE": "bash_complete"}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=asked)
    assert done.stdout.split() == ["plain,optimize"]
