"""Routers of Learning-to-Cache: which attentions and feed-forwards of a DiT a step computes.

A file is a training checkpoint as `torch.save` writes it (`routers`, and `opt` and `args`, which say
nothing about the routers), or the state dict of the routers alone, also as safetensors. Per step of the
sampler, counted from its end, it has a tensor `<step>.prob` of one number per unit: attention of block 0,
feed-forward of block 0, attention of block 1, and so on. The sigmoid of a number is the unit's score.
"""

from __future__ import annotations

import math
import re
import zipfile
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
UNIT_LIMIT = 2**16
"""Numbers of one router; a tensor may claim more than its file holds."""
CHECKPOINT = ("routers", "opt", "args")

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
    """Read a checkpoint or a state dict without running anything that is in it.

    Raises:
        SearchError: the file is too large, damaged, or holds anything but routers.
    """
    _require_small(path)
    found = _rows(_state(_load(path), str(path)), str(path))
    steps = range(len(found))
    widths = {len(row) for row in found.values()}
    if not found or set(found) != set(steps) or len(widths) != 1 or 0 in widths:
        msg = (
            f"{str(path)!r} has routers for the steps {sorted(found)} with {sorted(widths)} numbers "
            "each; expected every step from 0 on, all with as many"
        )
        raise SearchError(msg)
    return Routers(tuple(found[step] for step in reversed(steps)), threshold)


def _require_small(path: Path) -> None:
    """Refuse a file that is large, or would be when unpacked."""
    advice = "give the file with the routers, not with weights"
    require_small(path, SIZE_LIMIT, "routers have", advice)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(each.file_size for each in archive.infolist())
        if unpacked > SIZE_LIMIT:
            msg = (
                f"{str(path)!r} unpacks to {unpacked} bytes, but routers have at most {SIZE_LIMIT}; "
                f"{advice}"
            )
            raise SearchError(msg)


class _Ignored:
    """In place of `argparse.Namespace`: its attributes are not kept."""

    def __setstate__(self, state: object) -> None:
        """Forget."""


def _load(path: Path) -> Any:
    """What PyTorch's restricted unpickler makes of a file."""
    import safetensors.torch
    import torch

    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(path.read_bytes())
        with torch.serialization.safe_globals([(_Ignored, "argparse.Namespace")]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises has no common class
        named = re.search(r"Unsupported global: GLOBAL (\S{1,80})", str(error))
        msg = (
            f"{str(path)!r} names {named[1]!r}, which no router needs, so it is not read; give "
            "routers as Learning-to-Cache publishes them"
            if named
            else f"{str(path)!r} is not a state dict of tensors ({type(error).__name__}); give routers as "
            "torch.save or safetensors write them"
        )
        raise SearchError(msg) from error


def _state(content: Any, source: str) -> Mapping[Any, Any]:
    """The state dict of the routers."""
    state = content
    if isinstance(content, dict) and "routers" in content:
        unknown = sorted(str(key)[:80] for key in content if key not in CHECKPOINT)
        if unknown:
            msg = (
                f"{source!r} has {unknown} besides its routers; expected {', '.join(CHECKPOINT)}, as "
                "in a checkpoint of Learning-to-Cache"
            )
            raise SearchError(msg)
        state = content["routers"]
    if not isinstance(state, dict):
        msg = f"{source!r} holds a {type(state).__name__}; expected a state dict of routers"
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
        if not good or value.numel() > UNIT_LIMIT or not torch.isfinite(value).all():
            msg = (
                f"{source!r} has no finite numbers under {key!r}; expected a tensor of one per unit"
            )
            raise SearchError(msg)
        found[int(match[1])] = tuple(value.double().tolist())
    return found
