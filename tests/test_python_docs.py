"""The public names of the packages, and the examples of docs/python.md."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ROOMS = ("search", "exporter", "engines")


@pytest.mark.parametrize("room", ROOMS)
def test_importing_a_package_loads_nothing(room: str) -> None:
    code = f"import sys, {room}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "onnx", "diffusers"} & set(done.stdout.split())


def test_loading_an_engine_loads_no_torch() -> None:
    code = "import sys, engines, search; engines.load, search.load_subnet; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers"} & set(done.stdout.split())


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_there_documented_and_described(room: str) -> None:
    package = importlib.import_module(room)
    assert package.__all__ == sorted(package.__all__, key=lambda name: (name.islower(), name))
    for name in package.__all__:
        found = getattr(package, name)
        assert found.__doc__, name
        assert found.__name__ == name
        assert re.search(rf"`(\w+\.)?{name}\b", PAGE), f"docs/python.md leaves out {name}"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'; it offers"):
        package.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("room", "name", "module"),
    [("search", "apply", "search.applied"), ("exporter", "export", "exporter.exporting")],
)
def test_no_module_takes_the_place_of_a_public_function(room: str, name: str, module: str) -> None:
    importlib.import_module(module)
    assert callable(getattr(importlib.import_module(room), name))
    assert not (ROOT / room / f"{name}.py").exists()


@pytest.mark.slow
def test_the_examples_run_in_order(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "out").mkdir()
    code = "import warnings; warnings.simplefilter('ignore')\n" + "\n".join(EXAMPLES)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"subnet.json", "applied.png", "bundle", "cross.png"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert "4 calls" in done.stdout
    assert "is not a bundle" in done.stdout
