"""Every command in the README, its step-by-step page and the tutorial works as it stands there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.documented import ROOT, blocks, run
from tests.test_links import PAGES

README = ROOT / "README.md"
SCRIPTS = [
    text
    for page in (README, ROOT / "docs" / "steps.md", ROOT / "docs" / "tutorial.md")
    for text in blocks(page, "sh")
]
TARGETS = re.findall(r"^make (\w+)$", README.read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("chosen", "made", "proofs"),
    [
        # The tutorial's search is the README's, which is not done twice.
        pytest.param((0, 6, 7, 8, 9), {"emoji", "apple.png"}, 0, marks=pytest.mark.slow),
        ((1, 5), {"subnet.png", "bundle", "report", "cross.png", "fewer.json", "sampler"}, 1),
        pytest.param(
            (2, 3), {"triangle.png", "fast-0.5.json", "fast.png"}, 2, marks=pytest.mark.slow
        ),
        pytest.param((4,), {"half.json", "student"}, 0, marks=pytest.mark.slow),
    ],
)
def test_the_readme_commands_run_in_order(
    tmp_path: Path, chosen: tuple[int, ...], made: set[str], proofs: int
) -> None:
    """Of both pipelines beside each other."""
    assert len(SCRIPTS) == 10
    done = run(tmp_path, "\n".join(SCRIPTS[number] for number in chosen))
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
