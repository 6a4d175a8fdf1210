"""The programs in docs/serving.md work as they stand there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.engines.serve.gate import Running

ROOT = Path(__file__).parents[3]
PROGRAMS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs" / "serving.md").read_text(), re.MULTILINE | re.DOTALL
)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of programs that end at once
def test_the_programs(
    start: Callable[..., Running],
    alone: Callable[..., np.ndarray],
    pair: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asks, makes = PROGRAMS
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "bundle").symlink_to(pair)
    exec(asks.replace("http://127.0.0.1:8000", start().address), {})  # noqa: S102
    with Image.open("cross.png") as image:
        expected = alone("a large red cross left on a grey field", 1)
        np.testing.assert_array_equal(np.asarray(image), expected)
    exec(makes, {})  # noqa: S102
    with Image.open("out/cross.png") as image:
        np.testing.assert_array_equal(np.asarray(image), alone("a red cross", 1))
    assert capsys.readouterr().out.splitlines() == [f"call {n} of 4" for n in (1, 2, 3, 4)]
