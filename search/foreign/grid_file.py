"""Lists of timesteps or sigmas, as AYS, GITS and OSS publish them: JSON, or numbers with commas or blanks."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.core.files import read_text

if TYPE_CHECKING:
    from pathlib import Path

LONGEST = 10_000
"""Numbers of a list."""


def read_falling(path: Path, what: str) -> tuple[float, ...]:
    """Read a list of numbers, each below the one before and none below 0.

    Args:
        path: the file.
        what: they are, for messages.

    Raises:
        SearchError: it holds anything else.
    """
    numbers = _numbers(read_text(path), str(path), what)
    falls = all(a > b for a, b in itertools.pairwise(numbers))
    if not 1 < len(numbers) <= LONGEST or not falls or numbers[-1] < 0:
        shown = ", ".join(f"{number:g}" for number in numbers[:6])
        msg = (
            f"{str(path)!r} has the {what} {shown}{', ...' if len(numbers) > 6 else ''}; give two or more, "
            "each below the one before and none below 0"
        )
        raise SearchError(msg)
    return numbers


def _numbers(text: str, source: str, what: str) -> tuple[float, ...]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = [each for each in re.split(r"[\s,]+", text.strip()) if each]
    try:
        if not isinstance(content, list) or any(isinstance(each, bool) for each in content):
            raise TypeError
        found = tuple(float(each) for each in content)
        if not all(map(math.isfinite, found)):
            raise ValueError
    except (TypeError, ValueError) as error:
        msg = f"{source!r} is not a list of {what}; give numbers as JSON, or separated by commas or spaces"
        raise SearchError(msg) from error
    return found
