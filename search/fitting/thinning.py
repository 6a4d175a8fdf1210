"""Which blocks of which calls to leave out: the least change of the final latents. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from search.core.actions import RECORDS, Action, Source
from search.core.table import keep_of, with_rows
from search.supernet.shares import own_shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from search.core.subnet import SubNet
    from search.core.table import Cost

CAUTION = 3.0
"""Weight of the squares of the single effects beside that of their sum. On other pictures effects cancel
each other less than on those they were measured on."""
SLACK = 1e-9
"""Of comparisons between costs."""
Choice = tuple[int, int, int]
"""Call, block, and the number of the action among the choices."""


def thinned(
    whole: SubNet,
    keep: float,
    effects: NDArray[np.float64],
    choices: Sequence[Action],
    cost: Cost = keep_of,
) -> SubNet | None:
    """`whole` with other actions instead of RUN, for at most `keep`; None where that is out of reach.

    Args:
        whole: all calls in full.
        keep: fraction of the full sampler's cost.
        effects: of the choices, `[M, T, N, A]`.
        choices: what the last axis of `effects` means.
        cost: of a SubNet, as a fraction of the full sampler's.
    """
    need = cost(whole) - keep
    while True:
        selection = Selection(whole, effects, choices)
        chosen = selection.choose(need)
        if chosen is None:
            return None
        rows = [list(row) for row in whole.actions]
        for call, block, choice in chosen:
            rows[call][block] = choices[choice]
        found = with_rows(whole, rows)
        over = cost(found) - keep
        if over <= SLACK:
            return found
        # The savings are estimates in MACs: a choice may still compute a part of its block, such as a
        # shortcut, and what it saves in seconds is known only when its calls have been timed.
        need = max(need, selection.saved()) + over


class Selection:
    """Choices made one by one, then exchanged one by one, so that the square of their sum is smallest.

    Attributes:
        saving: of each choice, as a share of the full sampler's MACs, `[T, N, A]`.
        square: of the effect of each choice, with `CAUTION`, `[T, N, A]`.
        sum: of the effects of the chosen ones, `[M]`.
        chosen: the choices so far.
    """

    def __init__(
        self, whole: SubNet, effects: NDArray[np.float64], choices: Sequence[Action]
    ) -> None:
        self.whole, self.effects, self.choices = whole, effects, choices
        self.saving = _savings(whole, choices)
        self.square = (1 + CAUTION) * (effects**2).sum(0)
        self.sum = np.zeros(len(effects))
        self.chosen: list[Choice] = []

    def choose(self, need: float) -> list[Choice] | None:
        """The choices that save `need` of the full sampler's MACs; None where all together do not."""
        while (left := need - self.saved()) > SLACK:
            worth = self._changes() / np.minimum(np.maximum(self.saving, SLACK), left)
            best = self._best(worth, self.saving > SLACK)
            if best is None:
                return None
            self._add(best)
        while any(self._exchange(old, need) for old in list(self.chosen)):
            pass
        return self.chosen

    def _exchange(self, old: Choice, need: float) -> bool:
        """Replace a choice by the best other one, or by none if that suffices; whether that was better."""
        self._remove(old)
        left, change = need - self.saved(), self._changes()
        if left <= SLACK and change[old] > 0:
            return True
        best = self._best(change, self.saving >= max(left - SLACK, SLACK))
        if best is None or change[best] >= change[old] - SLACK * self.square[old]:
            self._add(old)
            return False
        self._add(best)
        return True

    def saved(self) -> float:
        """Share of the full sampler's MACs that the choices save."""
        return float(sum(self.saving[choice] for choice in self.chosen))

    def _changes(self) -> NDArray[np.float64]:
        """Of the square, by each further choice, `[T, N, A]`."""
        changes: NDArray[np.float64] = 2 * np.tensordot(self.sum, self.effects, 1) + self.square
        return changes

    def _best(self, worth: NDArray[np.float64], may: NDArray[np.bool_]) -> Choice | None:
        """The choice of least `worth` among those that may be made and find in the cache what they read."""
        for call, block, _ in self.chosen:
            may[call, block] = False
        for flat in np.argsort(np.where(may, worth, np.inf), axis=None):
            call, block, choice = (int(i) for i in np.unravel_index(flat, worth.shape))
            if not may[call, block, choice]:
                return None
            if self._is_filled((call, block, choice)):
                return call, block, choice
        return None

    def _is_filled(self, added: Choice) -> bool:
        """Whether every action of the block still finds in the cache what it reads."""
        column = [row[added[1]] for row in self.whole.actions]
        for call, block, choice in (*self.chosen, added):
            if block == added[1]:
                column[call] = self.choices[choice]
        runs = 0
        for call, action in enumerate(column):
            record = RECORDS[action]
            if runs < record.runs or (call == 0 and Source.EMITTED in record.row):
                return False
            runs += Source.FRESH in record.row
        return True

    def _add(self, choice: Choice) -> None:
        self.chosen.append(choice)
        self.sum = self.sum + self.effects[:, *choice]

    def _remove(self, choice: Choice) -> None:
        self.chosen.remove(choice)
        self.sum = self.sum - self.effects[:, *choice]


def _savings(whole: SubNet, choices: Sequence[Action]) -> NDArray[np.float64]:
    """The fraction of the full sampler's MACs that each choice surely saves, `[T, N, A]`; 0 if not allowed.

    That is what only the block's own tensors need, so a block that others are in saves what is between
    them: to reuse the last one would save a whole call, and is no small change.
    """
    topology = whole.topology
    each = np.repeat(own_shares(topology)[:, None], len(choices), axis=1)
    for number, choice in enumerate(choices):
        if choice is Action.RUN:
            each[:, number] = 0
        elif Source.BASE in RECORDS[choice].row:
            able = np.isin(np.arange(len(each)), topology.based)
            each[~able, number] = 0
    each[[action is not Action.RUN for action in whole.actions[0]]] = 0
    found: NDArray[np.float64] = np.repeat(each[None] / whole.full_calls, whole.steps, axis=0)
    return found
