"""What pipelines do to a prompt before they put it into a longer text and tokenise it. No framework."""

from __future__ import annotations

import html
import itertools
import re
from typing import TYPE_CHECKING

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Callable


def _mended(text: str) -> str:
    """Wrongly decoded characters put right, and typographic quotes made straight."""
    try:
        import ftfy
    except ImportError as error:
        msg = "this pipeline cleans its prompts with ftfy, which is not installed; pip install ftfy"
        raise SearchError(msg) from error
    return ftfy.fix_text(text)


CLEANINGS: dict[str, Callable[[str], str]] = {
    "mend": _mended,
    "unescape": lambda text: html.unescape(html.unescape(text)),
    "strip": str.strip,
    "squash": lambda text: re.sub(r"\s+", " ", text),
    "lower": str.lower,
}
"""By name, in the order in which they are applied."""


def cleaned(text: str, names: tuple[str, ...]) -> str:
    """The text after these cleanings."""
    for name in names:
        text = CLEANINGS[name](text)
    return text


def find_cleaned(text: str, original: str) -> tuple[str, tuple[str, ...], str] | None:
    """What a pipeline has made of a prompt.

    Args:
        text: that is tokenised.
        original: the prompt, on which all cleanings show.

    Returns:
        The text before the prompt, the cleanings of the prompt and the text after it, with as few
        cleanings as possible; None if the prompt is not in `text`.
    """
    for count in range(len(CLEANINGS) + 1):
        for names in itertools.combinations(CLEANINGS, count):
            try:
                made = cleaned(original, names)
            except SearchError:
                continue
            if made in text:
                before, _, after = text.partition(made)
                return before, names, after
    return None
