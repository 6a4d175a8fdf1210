"""The actions of a block at a step, each a row of coefficients over the tensors it is summed from."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Action(enum.StrEnum):
    """What a block does at one step; see `ACTIONS`."""

    RUN = "RUN"
    REUSE = "REUSE"
    DELTA = "DELTA"
    SKIP = "SKIP"
    FORECAST = "FORECAST"


class Source(enum.StrEnum):
    """A tensor that an action may add to what a block emits, one for each of the block's outputs."""

    FRESH = "fresh"
    """What the block computes now."""
    BASE = "base"
    """The block's input, through the shortcut convolution where there is one; zeros for a residual branch; the
    prediction of a step's first call for its later ones."""
    RESIDUAL = "residual"
    """Output minus base at the block's most recent run."""
    EMITTED = "emitted"
    """The most recent effective output, whatever action made it."""
    LAST = "last"
    """The output of the most recent run."""
    PREVIOUS = "previous"
    """The output of the run before that."""


RUNS = {Source.RESIDUAL: 1, Source.LAST: 1, Source.PREVIOUS: 2}
"""How many earlier runs a source needs."""


@dataclass(frozen=True)
class ActionRecord:
    """One action.

    Attributes:
        action: its name.
        row: the coefficient of each source in what the block emits; None stands for a number that
            each cell of the table brings along.
        meaning: for people, of a block at a step.
        symbol: one character, for the grid as text.
        colour: for the grid as a figure.
        default: what its free coefficients are where a search has not chosen them.
    """

    action: Action
    row: Mapping[Source, float | None]
    meaning: str
    symbol: str
    colour: str
    default: tuple[float, ...] = ()

    @property
    def free(self) -> tuple[Source, ...]:
        """The sources whose coefficients are stored per cell, in order."""
        return tuple(source for source, weight in self.row.items() if weight is None)

    @property
    def copies(self) -> Source | None:
        """The one source that is emitted as it is, if that is all the action does."""
        [*terms] = self.row.items()
        only = len(terms) == 1 and terms[0][1] == 1 and terms[0][0] is not Source.BASE
        return terms[0][0] if only else None

    @property
    def runs(self) -> int:
        """Least number of earlier runs of the block."""
        return max(RUNS.get(source, 0) for source in self.row)


ACTIONS = (
    ActionRecord(Action.RUN, {Source.FRESH: 1}, "computed", "█", "#1f6f8b"),
    ActionRecord(
        Action.DELTA,
        {Source.BASE: 1, Source.RESIDUAL: 1},
        "input plus cached residual",
        "+",
        "#8fc1a9",
    ),
    ActionRecord(Action.SKIP, {Source.BASE: 1}, "input handed on", "-", "#c9b6d9"),
    ActionRecord(
        Action.FORECAST,
        {Source.LAST: None, Source.PREVIOUS: None},
        "combination of its last two outputs",
        "/",
        "#b5534d",
        default=(2.0, -1.0),
    ),
    ActionRecord(
        Action.REUSE, {Source.EMITTED: 1}, "earlier output read from the cache", "▒", "#f2b880"
    ),
)
"""Every action; a new one is one record here."""

RECORDS = {record.action: record for record in ACTIONS}
