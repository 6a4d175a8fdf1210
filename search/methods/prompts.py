"""Which prompts a search samples with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from search.model.pipeline import Pipeline

SHIPPED = "prompts.txt"
"""A pipeline directory may bring prompts of its own kind, one per line."""
CLASSES_DRAWN = 64

CAPTIONS = (
    "a photo of a brown dog running along a beach",
    "an oil painting of a stormy sea",
    "portrait of an old woman with a silver necklace, soft light",
    "a red bicycle leaning against a stone wall",
    "a bowl of fruit on a wooden table",
    "an astronaut standing on a green hill",
    "a narrow street in an old town at night",
    "a watercolour of a heron in the reeds",
    "a steam train crossing a high bridge",
    "a cup of coffee next to an open book",
    "a snowy mountain above a blue lake",
    "a black cat sleeping on a windowsill",
    "a pencil drawing of a sailing ship",
    "a market stall full of vegetables",
    "a modern house made of glass in a forest",
    "a close-up of a bee on a yellow flower",
    "a child flying a kite in the park",
    "a robot playing a violin, studio light",
    "a lighthouse at sunset with long shadows",
    "a plate of pasta with basil leaves",
    "three hot-air balloons above a desert",
    "a stained glass window showing an owl",
    "an empty classroom in the morning sun",
    "a tiger walking through tall grass",
)
"""For pipelines from text to image that bring none."""


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read prompts from {str(path)!r} ({error}); give a text file, one prompt per line"
        raise SearchError(msg) from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        msg = f"{str(path)!r} has no prompts; give a text file, one prompt per line"
        raise SearchError(msg)
    return prompts


def default_prompts(pipeline: Pipeline, *, draw: int = 0) -> list[str]:
    """Prompts for a search that was given none: the pipeline's own, its classes, or `CAPTIONS`.

    Args:
        pipeline: to sample from.
        draw: of classes, another number gives others.
    """
    shipped = pipeline.path / SHIPPED
    if shipped.is_file():
        return read_prompts(shipped)
    classes = pipeline.family.classes(pipeline.pipe)
    if not classes:
        return list(CAPTIONS)
    named = sorted(set(getattr(pipeline.pipe, "labels", {}).values()))
    drawn = np.random.default_rng(draw).choice(named or classes, CLASSES_DRAWN)
    return [str(number) for number in drawn]


def split_prompts(
    pipeline: Pipeline, *, search: Sequence[str], evaluate: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Prompts to search with and others to evaluate with; given ones are not changed.

    Texts are not shared where there are enough of them; classes are drawn twice.

    Args:
        pipeline: to sample from.
        search: given by the user, or none.
        evaluate: likewise.
    """
    known = default_prompts(pipeline)
    others = default_prompts(pipeline, draw=1)
    if known == others and not search and not evaluate and len(known) > 1:
        return tuple(known[::2]), tuple(known[1::2])
    if known == others:
        known = [text for text in known if text not in evaluate] or known
        others = [text for text in others if text not in search] or others
    return tuple(search or known), tuple(evaluate or others)
