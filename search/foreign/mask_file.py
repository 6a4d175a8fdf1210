"""Step masks of Cache-DiT: at which steps all transformer blocks are computed.

A file holds the mask as digits (`1111000100010001`) or as a list of 0 and 1, or it holds Cache-DiT's
settings: a JSON or YAML mapping, whose `cache_config` may stand beside settings for other things. Only the
policy `static` is a table: under `dynamic`, Cache-DiT's default, a step that the mask leaves open is
decided while it runs.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError
from search.core.files import SettingsFile, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FIRST, LAST = 8, 0
"""How many blocks at either end Cache-DiT computes at every step by default."""
SECTION = "cache_config"
MASK, COMPUTE, CACHE, TOTAL = (
    "steps_computation_mask",
    "compute_bins",
    "cache_bins",
    "total_steps",
)
POLICY, FN, BN, STEPS = (
    "steps_computation_policy",
    "Fn_compute_blocks",
    "Bn_compute_blocks",
    "num_inference_steps",
)
CALIBRATORS = ("enable_taylorseer", "enable_dmd", "enable_foca")
"""Each makes Cache-DiT extrapolate the residual instead of adding the last one."""
DYNAMIC = (
    "cache_type",
    "residual_diff_threshold",
    "max_warmup_steps",
    "warmup_interval",
    "max_cached_steps",
    "max_continuous_cached_steps",
    "enable_encoder_taylorseer",
    "taylorseer_cache_type",
    "taylorseer_order",
)
"""Settings that a static mask overrides, or that only a calibrator reads."""
NAMED = {
    "slow": ((8, 3, 3, 2, 1, 1), (1, 2, 2, 2, 3)),
    "medium": ((6, 2, 2, 2, 2, 1), (1, 3, 3, 3, 3)),
    "fast": ((6, 1, 1, 1, 1, 1), (1, 3, 4, 5, 4)),
    "ultra": ((4, 1, 1, 1, 1), (2, 5, 6, 7)),
}
"""Cache-DiT's own masks for `NAMED_STEPS` steps: computed and cached steps in turns, the last computed."""
NAMED_STEPS = 28


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
        """Refuse a mask whose first step is cached."""
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
    content = _parse(text, source)
    if isinstance(content, dict):
        return _configured(content, source)
    return StepMask(_mask(content, source))


def _parse(text: str, source: str) -> Any:
    """The content of a YAML or JSON text, without tags and aliases."""
    import yaml

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            msg = f"{source!r} has YAML aliases, which no mask needs; write them out"
            raise SearchError(msg)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, SearchError):
            raise
        msg = f"{source!r} is neither JSON nor YAML ({type(error).__name__}); give a step mask"
        raise SearchError(msg) from error


def _configured(content: Mapping[str, Any], source: str) -> StepMask:
    """The mask in Cache-DiT's settings."""
    section = content.get(SECTION, content)
    if not isinstance(section, dict):
        msg = f"{source!r} has a {type(section).__name__} as {SECTION}; expected settings by name"
        raise SearchError(msg)
    settings = SettingsFile(section, source)
    settings.require_known(
        (MASK, COMPUTE, CACHE, TOTAL, POLICY, FN, BN, STEPS, *CALIBRATORS, *DYNAMIC)
    )
    if (MASK in section) == (COMPUTE in section and CACHE in section):
        msg = f"{source!r} has {sorted(section)}; give either {MASK}, or {COMPUTE} and {CACHE}"
        raise SearchError(msg)
    _require_static(settings)
    return StepMask(
        _from_mask(settings) if MASK in section else _from_bins(settings),
        first=settings.number(FN, FIRST),
        last=settings.number(BN, LAST),
    )


def _require_static(settings: SettingsFile) -> None:
    """Refuse settings that Cache-DiT decides or recalibrates at run time."""
    if POLICY not in settings.content:
        msg = (
            f"{settings.source!r} has no {POLICY}, and Cache-DiT's default is 'dynamic', which decides "
            f"while it runs; only a mask is a table: write {POLICY}: static to import it as one"
        )
        raise SearchError(msg)
    policy = settings.word(POLICY, "static")
    if policy != "static":
        msg = (
            f"{settings.source!r} has the {POLICY} {policy[:80]!r}, which decides while it runs; only "
            "'static' is a table"
        )
        raise SearchError(msg)
    extrapolates = [name for name in CALIBRATORS if settings.content.get(name)]
    if extrapolates:
        msg = (
            f"{settings.source!r} has {extrapolates[0]}, which extrapolates cached residuals; a SubNet "
            "adds the last ones as they are: set it to false to import the mask alone"
        )
        raise SearchError(msg)


def _from_mask(settings: SettingsFile) -> tuple[bool, ...]:
    """The mask that is given, or Cache-DiT's own of that name."""
    found, steps = settings.content[MASK], settings.content.get(STEPS)
    if not isinstance(found, str) or found not in NAMED:
        mask = _mask(found, settings.source)
        if steps is not None and steps != len(mask):
            msg = (
                f"{settings.source!r} has a mask of {len(mask)} steps, but {STEPS} is "
                f"{str(steps)[:80]}; both must be equal"
            )
            raise SearchError(msg)
        return mask
    if steps != NAMED_STEPS:
        msg = (
            f"{settings.source!r} asks for the mask {found!r} of {str(steps)[:80]} steps, but only "
            f"those of {NAMED_STEPS} are known by name; write the list that Cache-DiT's "
            f"steps_mask(mask_policy={found!r}, total_steps=...) returns"
        )
        raise SearchError(msg)
    return (*_in_turns(*NAMED[found])[:-1], True)


def _mask(content: object, source: str) -> tuple[bool, ...]:
    digits = list(content) if isinstance(content, str | list) else []
    if not digits or any(
        str(digit) not in ("0", "1") or isinstance(digit, bool) for digit in digits
    ):
        msg = f"{source!r} is not a step mask; give one 1 (compute) or 0 (cache) per step"
        raise SearchError(msg)
    return tuple(str(digit) == "1" for digit in digits)


def _from_bins(settings: SettingsFile) -> tuple[bool, ...]:
    mask = _in_turns(settings.numbers(COMPUTE), settings.numbers(CACHE))
    total = settings.number(TOTAL, len(mask), least=1)
    if total > len(mask):
        msg = (
            f"{settings.source!r} has bins for {len(mask)} steps, but {TOTAL} is {total}; "
            "give bins that add up to it"
        )
        raise SearchError(msg)
    return mask[:total]


def _in_turns(compute: Sequence[int], cache: Sequence[int]) -> tuple[bool, ...]:
    """Computed and cached steps in turns; the rest of the longer list follows at the end."""
    mask: list[bool] = []
    for computed, cached in itertools.zip_longest(compute, cache, fillvalue=0):
        mask += [True] * computed + [False] * cached
    return tuple(mask)
