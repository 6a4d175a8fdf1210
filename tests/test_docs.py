"""The commands of the pages in docs/, and the site."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documented import ROOT, blocks, run

ELSEWHERE = {"steps.md", "tutorial.md", "python.md", "serving.md"}
"""Pages that other tests run."""
SKETCHES = {"add-a-family.md", "add-an-engine.md"}
"""Pages with parts of programs."""
CHOSEN = [
    page
    for page in sorted((ROOT / "docs").glob("*.md"))
    if page.name not in ELSEWHERE | SKETCHES and (blocks(page, "sh") or blocks(page, "python"))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", CHOSEN, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_in_order(tmp_path: Path, page: Path) -> None:
    """Its commands, then its Python as one program."""
    (tmp_path / "out").mkdir()
    script = "\n".join(blocks(page, "sh"))
    if programs := blocks(page, "python"):
        (tmp_path / "program.py").write_text("\n".join(programs))
        script += "\npython program.py"
    done = run(tmp_path, script)
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
