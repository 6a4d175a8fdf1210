"""Gate files written as DiP-GO's author does: `pickle.dump` of dictionaries of CUDA tensors.

Keys and shapes are those of `UNetHelper` in src/DiPGO/extension/unethelper.py of haoweiz23/dip-go.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Sequence
from pathlib import Path
from unittest import mock

import torch

Key = tuple[str, str, int, int]
Step = dict[Key, torch.Tensor]
MID = ("mid", "mid_block", 0, 0)
KEEP, REUSE = (0.0, 1.0), (1.0, 0.0)
PUBLISHED_STEPS = 50
PUBLISHED_CALLS = (0, 7, 13, 19, 20, 21, 26, 32, 39, 48)
"""The steps of the published table for Stable Diffusion 1.5 at which blocks run."""


def keys(levels: int) -> list[Key]:
    """Of a U-Net with `levels` down blocks and as many up blocks."""
    sides = [(kind, "block", i, 0) for kind in ("down", "up") for i in range(levels)]
    return [*sides, MID]


def table(levels: int, steps: int, reused: Collection[tuple[int, Key]]) -> list[Step]:
    """Gates that keep everything but the given (step, key)."""
    return [
        {key: torch.tensor(REUSE if (step, key) in reused else KEEP) for key in keys(levels)}
        for step in range(steps)
    ]


def published() -> list[Step]:
    """What the author published: ten steps run everything, but step 7 not the last down block."""
    reused = {
        (step, key)
        for step in range(PUBLISHED_STEPS)
        for key in keys(4)
        if step not in PUBLISHED_CALLS or (step == 7 and key == ("down", "block", 3, 0))
    }
    return table(4, PUBLISHED_STEPS, reused)


def write(content: Sequence[Step], path: Path) -> Path:
    """As on a machine where the tensors lie on the first GPU."""
    with (
        path.open("wb") as file,
        mock.patch("torch.serialization.location_tag", return_value="cuda:0"),
    ):
        pickle.dump(content, file)
    return path
