"""What is shown of pictures and of videos."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engines.optimize.compare import _pixels
from search.frontier import quality


def a_run(pictures: int) -> Any:
    return SimpleNamespace(
        noise=torch.zeros(pictures, 1), predictor=SimpleNamespace(noise_shape=(1,))
    )


@pytest.mark.parametrize(("frames", "shown"), [(None, 0), (5, 2)])
def test_a_video_is_shown_by_its_middle_frame(
    monkeypatch: pytest.MonkeyPatch, frames: int | None, shown: int
) -> None:
    """Of two pictures or videos, each frame of one brightness: ten times the video's, plus its own number."""
    count = frames or 1
    values = torch.tensor([[10.0 * v + f for f in range(count)] for v in (0, 1)]) / 255
    made = values[..., None, None, None].expand(2, count, 3, 4, 4)
    decoded = made if frames else made[:, 0]
    monkeypatch.setattr(quality, "Decoder", lambda *_: lambda _: decoded)
    pipeline: Any = SimpleNamespace(size=lambda _: (4, 4))
    pictures = quality.decode(pipeline, [a_run(2)], [torch.zeros(2, 1)])
    assert pictures.shape == (2 * count, 3, 4, 4)
    work: Any = SimpleNamespace(held_out=SimpleNamespace(runs=(a_run(2),)))
    found = _pixels(pictures, work)
    assert found.shape == (2, 4, 4, 3)
    assert [int(each.flat[0]) for each in found] == [shown, 10 + shown]
