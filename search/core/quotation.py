"""What pipelines make of words in quotes in a prompt, which are to be drawn as letters. No framework."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

MARKS = ("''", '""', "\u2018\u2019", "\u201c\u201d")
"""Pairs of quotes, opening and closing."""
_NAMES = tuple("abcdef")
_APOSTROPHES = re.compile("[a-zA-Z]+'[a-zA-Z]+")
_HIDDEN = "\0"


@dataclass(frozen=True)
class Quotation:
    """How a pipeline makes a text of the quoted words of another.

    Attributes:
        marks: the pairs of quotes that it knows, in its order.
        by_mark: whether words stand in the order of these pairs, not in that of the text.
        once: whether a word that is quoted twice stands there once.
        before: what stands before the words.
        between: likewise, between two.
        after: likewise, behind them.
    """

    marks: tuple[str, ...]
    by_mark: bool
    once: bool
    before: str
    between: str
    after: str

    def words(self, text: str) -> list[str]:
        """The quoted words of a text."""
        patterns = [f"{re.escape(mark[0])}(.*?){re.escape(mark[1])}" for mark in self.marks]
        if self.by_mark:
            found = [word for pattern in patterns for word in re.findall(pattern, text)]
        else:
            matches = re.finditer("|".join(patterns), text)
            found = [next((g for g in match.groups() if g is not None), "") for match in matches]
        return list(dict.fromkeys(found)) if self.once else found

    def text(self, text: str) -> str:
        """What the pipeline makes of a text's quoted words; empty if there are none."""
        words = self.words(text)
        return f"{self.before}{self.between.join(words)}{self.after}" if words else ""


def pieces(text: str, marks: tuple[str, ...]) -> list[str]:
    """The parts of a text that are tokenised apart: words in quotes letter by letter.

    An apostrophe within a word is no quote.
    """
    hidden = _APOSTROPHES.sub(lambda word: word.group().replace("'", _HIDDEN), text)
    patterns = [
        f"{first}[^{first}{last}]*?{last}"
        for first, last in ((re.escape(mark[0]), re.escape(mark[1])) for mark in marks)
    ]
    found = []
    for place, part in enumerate(
        re.split(f"({'|'.join(patterns)})", hidden) if marks else [hidden]
    ):
        part = part.replace(_HIDDEN, "'")
        found += list(part) if place % 2 else [part]
    return [part for part in found if part]


def read_marks(source: str, texts: list[str]) -> tuple[str, ...] | None:
    """The pairs of quotes whose words a pipeline spells; `texts` it has tokenised for `probe(source)`.

    Returns:
        None if it takes the text apart in another way.
    """
    ours = probe(source)
    for start, end in itertools.combinations(range(len(texts) + 1), 2):
        if "".join(texts[start:end]) != ours:
            continue
        for count in range(1, len(MARKS) + 1):
            for marks in itertools.combinations(MARKS, count):
                if pieces(ours, marks) == texts[start:end]:
                    return marks
    return None


def probe(source: str) -> str:
    """A text that shows how its quoted words are put together.

    Its quotes stand in the reverse order of `MARKS`, and one word is quoted twice.
    """
    quoted = [f"{mark[0]}{_word(source, number)}{mark[1]}" for number, mark in enumerate(MARKS)]
    again = f"{MARKS[1][0]}{_word(source, 1)}{MARKS[1][1]}"
    other = [
        f"{mark[0]}{_word(source, number)}{mark[1]}" for number, mark in enumerate(MARKS[:2], 4)
    ]
    return " and ".join([*reversed(quoted), again, *other, "it's"])


def _word(source: str, number: int) -> str:
    return f"{source}{_NAMES[number]}"


def read_quotation(source: str, made: str) -> Quotation | None:
    """How a pipeline has made a text of the quoted words of `probe(source)`.

    Returns:
        None if it is made in another way than a `Quotation` can say.
    """
    word = re.compile("|".join(re.escape(_word(source, number)) for number in range(len(_NAMES))))
    matches = list(word.finditer(made))
    if len(matches) <= len(MARKS) // 2:  # too few to show their order
        return None
    found = [match.group() for match in matches]
    numbers = [_NAMES.index(each[-1]) for each in found]
    # The last two words stand in the quotes of the first two.
    kinds = list(dict.fromkeys(n % len(MARKS) for n in numbers))
    by_position = [each.group() for each in word.finditer(probe(source))]
    quotation = Quotation(
        marks=tuple(MARKS[kind] for kind in kinds),
        by_mark=list(dict.fromkeys(found)) != [w for w in dict.fromkeys(by_position) if w in found],
        once=len(set(found)) == len(found),
        before=made[: matches[0].start()],
        between=made[matches[0].end() : matches[1].start()],
        after=made[matches[-1].end() :],
    )
    return quotation if quotation.text(probe(source)) == made else None
