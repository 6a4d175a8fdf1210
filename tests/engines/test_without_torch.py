"""`stepcarve run` in an environment in which neither torch nor diffusers is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engines.base import make_engine
from engines.parity import relative_l2
from engines.runner import Runner
from exporter.bundle import Bundle
from search.core.subnet import SubNet
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline

# What `stepcarve run` needs: our own packages, the engine, and what prints and saves.
NEEDED = (
    "cli", "search", "exporter", "engines", "click", "cloup", "typing_extensions", "rich", "pygments", "markdown_it", "mdurl",
    "numpy", "cloudpickle", "joblib", "ml_dtypes", "onnxruntime", "flatbuffers", "google", "packaging", "psutil", "tokenizers", "PIL",
)  # fmt: skip
ABSENT = ("torch", "diffusers", "transformers", "onnx", "onnx_ir", "accelerate", "scipy")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables for a Python that finds `NEEDED` and nothing else."""
    site = tmp_path_factory.mktemp("site")
    for name in NEEDED:
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue
        place = (
            Path(next(iter(spec.submodule_search_locations)))
            if spec.submodule_search_locations
            else Path(spec.origin or "")
        )
        (site / place.name).symlink_to(place)
        # cloup asks for click's version.
        for beside in (f"{name.lower()}*.libs", f"{name.lower()}-*.dist-info"):
            for found in place.parent.glob(beside):
                (site / found.name).symlink_to(found)
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(site)}


def python(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    # -S: without site, so that nothing but PYTHONPATH and the standard library is found.
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ABSENT)
def test_the_environment_lacks_the_frameworks(environment: dict[str, str], name: str) -> None:
    done = python(environment, "-c", f"import {name}")
    assert f"No module named '{name}'" in done.stderr


@pytest.mark.parametrize(
    ("pipeline", "what"),
    [("shapes-sd", ["--prompt", "a large red cross left on a grey field"]),
     ("learned-variance", ["--label", "7"])],
)  # fmt: skip
def test_run_makes_the_same_picture_without_torch(
    pipelines: Callable[[str], Path],
    make_bundle: Callable[[str, SubNet], Bundle],
    environment: dict[str, str],
    tmp_path: Path,
    pipeline: str,
    what: list[str],
) -> None:
    opened = open_pipeline(pipelines(pipeline), weights=False)
    bundle = make_bundle(pipeline, search(opened, "deepcache" if what[0] == "--prompt" else "full",
                                          Options(steps=6, interval=3)))  # fmt: skip
    command = [
        "-m", "cli", "run", str(bundle.path), *what, "--seed", "5",
        "-o", str(tmp_path / "out.png"), "--save-latents", str(tmp_path / "out.npy"),
    ]  # fmt: skip
    done = python(environment, *command)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.png").is_file()

    here = Runner(bundle, make_engine("onnxruntime", "cpu")).run(what[1], seed=5)
    assert relative_l2(np.load(tmp_path / "out.npy"), here.latents) < 1e-5


def test_verify_says_that_it_needs_the_reference(
    pipelines: Callable[[str], Path],
    make_bundle: Callable[[str, SubNet], Bundle],
    environment: dict[str, str],
) -> None:
    opened = open_pipeline(pipelines("learned-variance"), weights=False)
    bundle = make_bundle("learned-variance", search(opened, "full", Options(steps=6, interval=3)))
    done = python(environment, "-m", "cli", "verify", str(bundle.path))
    assert done.returncode == 2
    assert re.fullmatch(
        r"Error: this needs '\w+', which is not installed; install stepcarve with its dependencies, "
        r"or run the command where it is installed\n",
        done.stderr,
    )
