"""The commands of the pages in docs/, and the site."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
SCRIPTS = {
    page.name: "\n".join(SHELL.findall(page.read_text()))
    for page in sorted((ROOT / "docs").glob("*.md"))
    if SHELL.search(page.read_text()) and page.name != "steps.md"  # test_readme.py runs that
}


@pytest.mark.slow
@pytest.mark.parametrize("page", SCRIPTS)
def test_the_commands_of_a_page_run_in_order(tmp_path: Path, page: str) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "out").mkdir()
    command = tmp_path / "bin" / "stepcarve"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cli "$@"\n')
    command.chmod(0o755)
    path = {"PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-euc", SCRIPTS[page]],
        cwd=tmp_path, env=os.environ | path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    commands = (tmp_path / "docs" / "command-line.html").read_text()
    assert 'id="stepcarve-optimize"' in commands
    assert "<code>--min-psnr" in commands
    python = (tmp_path / "docs" / "python-reference.html").read_text()
    assert 'id="engines.Runner.run"' in python
