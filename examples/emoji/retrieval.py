"""Which emoji, of all of them, a picture shows: the judge's ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from examples.emoji.artwork import STYLES
from examples.emoji.pictures import BACKGROUNDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from search.frontier.judge import Judge


@dataclass(frozen=True)
class Retrieval:
    """How well pictures show what their captions say; shares of the pictures.

    Attributes:
        top1: the emoji that was asked for is the likeliest.
        top5: it is among the five likeliest.
        style: the style is right.
        background: the background is right.
    """

    top1: float
    top5: float
    style: float
    background: float


def retrieve(judge: Judge, images: NDArray[np.uint8], texts: Sequence[str]) -> Retrieval:
    """Judge pictures `[N, 64, 64, 3]` by their captions."""
    reading, names = judge.read(images), judge.vocabulary["emoji"]
    wanted = np.array([names.index(emoji_of(text)) for text in texts])
    logits = reading.logits["emoji"]
    ranks = (logits > logits[np.arange(len(texts)), wanted][:, None]).sum(axis=1)
    found = judge.accuracy(reading, texts)
    return Retrieval(
        top1=float((ranks < 1).mean()),
        top5=float((ranks < 5).mean()),
        style=found["style"],
        background=found["background"],
    )


def emoji_of(text: str) -> str:
    """The emoji's name in a caption: `flat red apple on yellow` -> `red apple`."""
    style, _, rest = text.partition(" ")
    name, _, background = rest.rpartition(" on ")
    if style not in STYLES or background not in BACKGROUNDS:
        msg = f"{text!r} is no caption of an emoji; expected one like 'flat red apple on yellow'"
        raise ValueError(msg)
    return name
