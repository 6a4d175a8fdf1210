"""Routers of Learning-to-Cache: which attentions and feed-forwards of a DiT a step computes.

A file is a state dict, as safetensors or as `torch.save` writes it: per step of the sampler, counted from
its end, a tensor `<step>.prob` of one number per unit: attention of block 0, feed-forward of block 0,
attention of block 1, and so on. The sigmoid of a number is the unit's score.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError
from search.core.files import require_small

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

THRESHOLD = 0.1
"""What the published routers are sampled with."""
SIZE_LIMIT = 64 * 2**20
"""Bytes; a thousand steps of a hundred blocks need one."""

_KEY = re.compile(r"(?:routers\.)?(\d+)\.prob")


@dataclass(frozen=True)
class Routers:
    """The routers of all steps.

    Attributes:
        logits: `logits[step][unit]`, step 0 the noisiest.
        threshold: a unit whose score is not above it is taken from the cache.
    """

    logits: tuple[tuple[float, ...], ...]
    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        """Check the threshold."""
        if not 0 < self.threshold < 1:
            msg = f"the threshold is {self.threshold}; give a number between 0 and 1"
            raise SearchError(msg)

    def computes(self, step: int, unit: int) -> bool:
        """Whether a step computes a unit; every second step, counted from the end, computes all.

        Only what the step before has computed is ever taken from the cache.
        """
        if step == 0 or (len(self.logits) - 1 - step) % 2 == 1:
            return True
        return self.logits[step][unit] > math.log(self.threshold / (1 - self.threshold))


def read_routers(path: Path, threshold: float = THRESHOLD) -> Routers:
    """Read a state dict without running anything that is in it.

    Raises:
        SearchError: the file is too large, damaged, or holds anything but routers.
    """
    require_small(
        path, SIZE_LIMIT, "routers have", "give the file with the routers, not with weights"
    )
    state = _load(path)
    nested = state.get("routers")
    found = _rows(nested if isinstance(nested, dict) else state, str(path))
    steps = range(len(found))
    widths = {len(row) for row in found.values()}
    if not found or set(found) != set(steps) or len(widths) != 1 or 0 in widths:
        msg = (
            f"{str(path)!r} has routers for the steps {sorted(found)} with {sorted(widths)} numbers "
            "each; expected every step from 0 on, all with as many"
        )
        raise SearchError(msg)
    return Routers(tuple(found[step] for step in reversed(steps)), threshold)


def _load(path: Path) -> Mapping[str, Any]:
    import safetensors.torch
    import torch

    data = path.read_bytes()
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(data)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises has no common class
        msg = (
            f"{str(path)!r} is no state dict of tensors ({type(error).__name__}); give routers as "
            "torch.save or safetensors write them"
        )
        raise SearchError(msg) from error
    if not isinstance(state, dict):
        msg = f"{str(path)!r} holds a {type(state).__name__}; expected a state dict of routers"
        raise SearchError(msg)
    return state


def _rows(state: Mapping[Any, Any], source: str) -> dict[int, tuple[float, ...]]:
    """The numbers of each router, by its place in the file."""
    import torch

    found = {}
    for key, value in state.items():
        match = _KEY.fullmatch(key) if isinstance(key, str) else None
        if match is None:
            msg = f"{source!r} has the key {str(key)[:80]!r}; expected '<step>.prob'"
            raise SearchError(msg)
        good = isinstance(value, torch.Tensor) and value.ndim == 1 and value.is_floating_point()
        if not good or not torch.isfinite(value).all():
            msg = (
                f"{source!r} has no finite numbers under {key!r}; expected a tensor of one per unit"
            )
            raise SearchError(msg)
        found[int(match[1])] = tuple(value.double().tolist())
    return found
