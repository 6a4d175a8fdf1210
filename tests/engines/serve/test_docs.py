"""The program in docs/serving.md works as it stands there."""

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
def test_the_program(
    start: Callable[..., Running],
    alone: Callable[..., np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (asks,) = PROGRAMS
    monkeypatch.chdir(tmp_path)
    exec(asks.replace("http://127.0.0.1:8000", start().address), {})  # noqa: S102
    with Image.open("apple.png") as image:
        expected = alone("flat red apple on yellow", 1)
        np.testing.assert_array_equal(np.asarray(image), expected)
