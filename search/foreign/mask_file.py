"""Step masks of Cache-DiT: at which steps all transformer blocks are computed.

A file holds the mask as digits (`1111000100010001`), as a JSON list of 0 and 1, or a JSON object with the
names that Cache-DiT gives its settings. Only the policy `static` is a table: under `dynamic` a step that
the mask leaves open is decided while it runs.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.core.files import Settings, parse_json, read_text

if TYPE_CHECKING:
    from pathlib import Path

FIRST, LAST = 8, 0
"""How many blocks at either end Cache-DiT computes at every step by default."""
MASK, COMPUTE, CACHE, TOTAL = (
    "steps_computation_mask",
    "compute_bins",
    "cache_bins",
    "total_steps",
)
POLICY, FN, BN = "steps_computation_policy", "Fn_compute_blocks", "Bn_compute_blocks"


@dataclass(frozen=True)
class StepMask:
    """Which steps compute every block.

    Attributes:
        computes: one per step, noisiest first.
        first: how many of the first blocks every step computes.
        last: likewise of the last blocks.
    """

    computes: tuple[bool, ...]
    first: int = FIRST
    last: int = LAST

    def __post_init__(self) -> None:
        """Refuse a mask with nothing to start from."""
        if not self.computes or not self.computes[0]:
            msg = (
                "the mask does not compute the first step, when nothing is cached; begin it with 1"
            )
            raise SearchError(msg)


def read_mask(path: Path) -> StepMask:
    """Read a mask in any of its forms.

    Raises:
        SearchError: it is none of them.
    """
    text, source = read_text(path).strip(), str(path)
    if re.fullmatch("[01]+", text):
        return StepMask(_mask(text, source))
    content = parse_json(text, source)
    if not isinstance(content, dict):
        return StepMask(_mask(content, source))
    settings = Settings(content, source)
    settings.require_known((MASK, COMPUTE, CACHE, TOTAL, POLICY, FN, BN))
    policy = settings.word(POLICY, "static")
    if policy != "static":
        msg = f"{source!r} has the {POLICY} {policy!r}, which decides while it runs; only 'static' is a table"
        raise SearchError(msg)
    if (MASK in content) == (COMPUTE in content and CACHE in content):
        msg = f"{source!r} has {sorted(content)}; give either {MASK}, or {COMPUTE} and {CACHE}"
        raise SearchError(msg)
    return StepMask(
        _mask(content[MASK], source) if MASK in content else _from_bins(settings),
        first=settings.number(FN, FIRST),
        last=settings.number(BN, LAST),
    )


def _mask(content: object, source: str) -> tuple[bool, ...]:
    digits = list(content) if isinstance(content, str | list) else []
    if not digits or any(
        str(digit) not in ("0", "1") or isinstance(digit, bool) for digit in digits
    ):
        msg = f"{source!r} is no step mask; give one 1 (compute) or 0 (cache) per step"
        raise SearchError(msg)
    return tuple(str(digit) == "1" for digit in digits)


def _from_bins(settings: Settings) -> tuple[bool, ...]:
    """Computed and cached steps in turns; the rest of the longer list follows at the end."""
    compute, cache = settings.numbers(COMPUTE), settings.numbers(CACHE)
    mask: list[bool] = []
    for computed, cached in itertools.zip_longest(compute, cache, fillvalue=0):
        mask += [True] * computed + [False] * cached
    total = settings.number(TOTAL, len(mask), least=1)
    if total > len(mask):
        msg = (
            f"{settings.source!r} has bins for {len(mask)} steps, but {TOTAL} is {total}; "
            "give bins that add up to it"
        )
        raise SearchError(msg)
    return tuple(mask[:total])
