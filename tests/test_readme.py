"""Every command in the README and in its step-by-step page works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_links import PAGES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
STEPS = (ROOT / "docs" / "steps.md").read_text()
SCRIPTS = re.findall(r"^```sh\n(.*?)^```", README + STEPS, re.MULTILINE | re.DOTALL)
TARGETS = re.findall(r"^make (\w+)$", README, re.MULTILINE)


@pytest.mark.parametrize(
    ("blocks", "made", "proofs"),
    [
        pytest.param((0,), {"shapes"}, 0, marks=pytest.mark.slow),
        ((1, 5), {"subnet.png", "bundle", "report", "cross.png", "fewer.json", "sampler"}, 1),
        pytest.param(
            (2, 3), {"triangle.png", "fast-0.5.json", "fast.png"}, 2, marks=pytest.mark.slow
        ),
        pytest.param((4,), {"half.json", "student"}, 0, marks=pytest.mark.slow),
    ],
)
def test_the_readme_commands_run_in_order(
    tmp_path: Path, blocks: tuple[int, ...], made: set[str], proofs: int
) -> None:
    """As a shell session in a fresh directory that holds the examples; the pipelines beside each other."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "activate").touch()
    for name, module in (("stepcarve", "-m cli"), ("python", "")):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (bin_folder / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    assert len(SCRIPTS) == 6
    done = subprocess.run(
        ["sh", "-euc", "\n".join(SCRIPTS[block] for block in blocks)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert made <= {path.name for path in (tmp_path / "out").iterdir()}
    assert done.stdout.count("Parity holds") == proofs
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {f"/{path.name}/" for path in tmp_path.iterdir()} <= {*ignored, "/examples/", "/.venv/"}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_no_figure_is_still_to_be_filled_in(page: Path) -> None:
    assert not re.findall(r"@[A-Z]+@", page.read_text())


@pytest.mark.parametrize("target", TARGETS)
def test_the_make_targets_exist(target: str) -> None:
    subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_the_continuous_integration_runs_the_test_command() -> None:
    assert "test" in TARGETS
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()
