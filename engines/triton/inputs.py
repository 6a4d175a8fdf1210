"""What a request of Triton asks for: its tensors, a row per picture. No framework."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engines.batches import Wanted
from engines.errors import EngineError
from engines.guidance import guidance_of
from search.core.errors import SearchError
from search.core.prompt import PromptField, class_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from exporter.bundle import Bundle

PROMPT, NEGATIVE, GUIDANCE, SEED = "PROMPT", "NEGATIVE_PROMPT", "GUIDANCE_SCALE", "SEED"
IMAGE = "IMAGE"


def wanted_of(
    bundle: Bundle, given: Mapping[str, NDArray[Any]], draw: Callable[[], int]
) -> list[Wanted]:
    """The pictures of a request.

    Args:
        bundle: that makes them.
        given: tensors `[pictures, 1]`; all but the prompts may be missing.
        draw: a seed for a picture without one.

    Raises:
        EngineError: the bundle cannot make one of them.
    """
    columns = {name: [row[0] for row in values] for name, values in given.items()}
    count = len(columns[PROMPT])
    return [
        _wanted(bundle, {name: values[n] for name, values in columns.items()}, draw)
        for n in range(count)
    ]


def _wanted(bundle: Bundle, row: Mapping[str, Any], draw: Callable[[], int]) -> Wanted:
    prompt, negative = _text(row[PROMPT], PROMPT), _text(row.get(NEGATIVE, b""), NEGATIVE)
    seed = int(row[SEED]) if SEED in row else draw()
    for each in bundle.prompt_inputs:
        if each.fill is PromptField.LABEL:
            try:
                class_number(prompt, bundle.labels, each.classes)
            except SearchError as error:
                raise EngineError(str(error)) from error
    scale = float(row[GUIDANCE]) if GUIDANCE in row else None
    try:
        return Wanted(prompt, negative, guidance_of(bundle, scale, negative), seed)
    except EngineError as error:
        reason = str(error).partition(";")[0]  # the advice is for the command line
        name = NEGATIVE if negative and not bundle.takes_negative else GUIDANCE
        msg = f"{reason}; leave {name} out"
        raise EngineError(msg) from error


def _text(value: bytes | str, name: str) -> str:
    """Triton hands texts over as bytes."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        msg = f"{name} is not UTF-8; send UTF-8 text"
        raise EngineError(msg) from error
