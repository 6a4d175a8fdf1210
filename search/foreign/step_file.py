"""Lists of steps: at which the whole denoiser is computed (LeMiCa, MeanCache) or reused (BudCache)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError
from search.core.files import parse_json, read_settings, read_text, require_small

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SIZE_LIMIT = 2**20
"""Bytes of a BudCache file, which holds a few numbers."""
BUDCACHE = ("cache_step", "best_loss")
CALC, EDGES = "calc_dict", "edge_source"
"""What MeanCache's scripts call the steps, and what makes each step's velocity until the next of them."""
ORDERS = {"chain": 0, "v_diff_mean": 1} | {f"v_diff_mean_jvp1_s{n}": n for n in range(2, 7)}
"""A velocity's name -> over how many of the last steps its slope is taken; 1 holds it."""


@dataclass(frozen=True)
class Steps:
    """Steps of a sampler.

    Attributes:
        numbers: rising, from 0.
        are_computed: these; or all others are.
    """

    numbers: tuple[int, ...]
    are_computed: bool = True

    def computes(self, steps: int) -> tuple[bool, ...]:
        """Per step of a sampler of so many, whether it is computed.

        Raises:
            SearchError: the list is for a longer one, or does not compute the first.
        """
        if self.numbers and self.numbers[-1] >= steps:
            msg = (
                f"the file names step {self.numbers[-1]}, but the sampler has {steps} steps, counted from "
                "0; choose --steps as the list was made for"
            )
            raise SearchError(msg)
        found = tuple((step in self.numbers) == self.are_computed for step in range(steps))
        if not found[0]:
            msg = "the file does not compute step 0, when there is nothing to reuse; give another"
            raise SearchError(msg)
        return found


@dataclass(frozen=True)
class MeanVelocity:
    """MeanCache's steps.

    Attributes:
        steps: that are computed.
        orders: one per computed step but the last: over how many steps the slope is taken until the next.
    """

    steps: Steps
    orders: tuple[int, ...]


def read_lemica(path: Path) -> Steps:
    """Read a JSON list of the computed steps.

    Raises:
        SearchError: it is none.
    """
    return _steps(parse_json(read_text(path), str(path)), str(path))


def read_budcache(path: Path) -> Steps:
    """Read a file as `torch.save` writes it, without running anything in it: the reused steps.

    Raises:
        SearchError: it holds anything but steps and a loss.
    """
    import torch

    require_small(path, SIZE_LIMIT, "a step list has", "give the file of BudCache's first stage")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises has no common class
        msg = (
            f"{str(path)!r} holds more than plain numbers, or is damaged ({type(error).__name__}); give "
            "the file of BudCache's first stage"
        )
        raise SearchError(msg) from error
    if not isinstance(content, dict) or set(content) - set(BUDCACHE) or BUDCACHE[0] not in content:
        keys = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        msg = f"{str(path)!r} holds {str(keys)[:80]}; expected {' and '.join(BUDCACHE)}"
        raise SearchError(msg)
    return Steps(_steps(content[BUDCACHE[0]], str(path)).numbers, are_computed=False)


def read_meancache(path: Path) -> MeanVelocity:
    """Read a JSON object with one entry of each of the two tables in MeanCache's scripts.

    Raises:
        SearchError: it is none, or the two do not fit.
    """
    settings = read_settings(path)
    settings.require_known((CALC, EDGES))
    steps = _steps(settings.content.get(CALC), str(path))
    edges = settings.content.get(EDGES)
    names = edges if isinstance(edges, list) else []
    unknown = sorted({str(name)[:40] for name in names} - ORDERS.keys())
    if unknown or len(names) != len(steps.numbers) - 1:
        msg = (
            f"{str(path)!r} has {len(names)} entries in {EDGES}, {unknown or 'none'} of them unknown; give "
            f"one per step of {CALC} but the last, of {', '.join(ORDERS)}"
        )
        raise SearchError(msg)
    return MeanVelocity(steps, tuple(ORDERS[name] for name in names))


def _steps(content: object, source: str) -> Steps:
    numbers: Sequence[Any] = content if isinstance(content, list) else ()
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers)
    if not numbers or not whole or list(numbers) != sorted(set(numbers)):
        shown = re.sub(r"\s+", " ", str(content))[:60]
        msg = f"{source!r} has {shown} as its steps; give their numbers from 0, in rising order"
        raise SearchError(msg)
    return Steps(tuple(numbers))
