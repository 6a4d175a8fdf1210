"""What the distribution is made of, and what the layers may load."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = ("cli", "engines", "exporter", "search")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FRAMEWORKS = {"torch", "diffusers", "transformers", "tensorrt", "openvino"}


@pytest.mark.parametrize("name", NAMES)
def test_our_top_level_names_are_ours_alone(name: str) -> None:
    """The names are common words: another distribution that brings one would shadow ours."""
    assert set(metadata.packages_distributions().get(name, ["stepcarve"])) == {"stepcarve"}


def test_the_console_script_is_the_command_line() -> None:
    scripts = metadata.entry_points(group="console_scripts", name="stepcarve")
    assert {script.value for script in scripts} == {"cli:main"}


def test_nothing_can_be_uploaded_by_mistake() -> None:
    assert "Private :: Do Not Upload" in metadata.metadata("stepcarve").get_all("Classifier")


def test_every_installed_dependency_is_pinned() -> None:
    """`constraints.txt` fixes everything the project installs, without local version tags."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert not [version for version in pins.values() if "+" in version]
    normal = {name.lower().replace("_", "-") for name in pins}
    project = PROJECT["project"]
    extras = {k: v for k, v in project["optional-dependencies"].items() if k != "tensorrt"}
    wanted = [*project["dependencies"], *chain.from_iterable(extras.values())]
    wanted += PROJECT["dependency-groups"]["dev"] + PROJECT["dependency-groups"]["docs"]
    for requirement in wanted:
        name = requirement.replace("=", ">").split(">")[0].partition("[")[0]
        assert name.lower().replace("_", "-") in {*normal, "stepcarve"}, name


def test_setting_up_installs_every_extra() -> None:
    """But one of the two packages with the modules of ONNX Runtime, and TensorRT, which is elsewhere."""
    line = re.search(r'-e "\.\[(.+)\]"', (ROOT / "Makefile").read_text())
    assert line is not None
    extras = PROJECT["project"]["optional-dependencies"]
    implied = {"search", "export"}  # of verify
    assert {*line[1].split(","), *implied, "run", "tensorrt"} == set(extras)


@pytest.mark.parametrize(
    "module",
    ["engines.runner", "engines.onnxruntime", "engines.pictures", "engines.serve.server",
     "engines.spread", "exporter.bundle",
     "exporter.picture", "search.core.summary", "search.core.subnet", "search.core.liveness"],
)  # fmt: skip
def test_the_run_side_loads_no_framework(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not FRAMEWORKS & set(done.stdout.split())
