"""Both halves of guidance in the rows: at each call the prediction without guidance, and then the one with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from search.core.actions import Action
from search.core.table import with_rows
from search.fitting.half_calls import unconditional_calls
from search.fitting.placed import Placed, assess, evaluate
from search.fitting.rows import HISTORY, Calls, changes_nothing
from search.fitting.scaled import fitted_sampler
from search.fitting.thin import placed_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from search.core.subnet import SubNet
    from search.core.topology import Topology
    from search.fitting.trajectories import Trajectories


@dataclass(frozen=True)
class Paired:
    """Calls of which each makes two predictions.

    Attributes:
        whole: as many steps, all in full.
        subnet: what the steps do: the call with the prompt, and then the one with the negative prompt.
        placed: its calls and rows, not evaluated.
    """

    whole: SubNet
    subnet: SubNet
    placed: Placed

    def evaluated(self, runs: Trajectories) -> Placed:
        """Its calls and rows, by gated runs of `subnet`."""
        calls = Calls.at_numbers(self.placed.positions, runs)
        return evaluate(runs, calls, self.placed.rows)

    def fitted(self, fitted_on: Trajectories, held_out: Trajectories) -> Placed:
        """Its calls with rows in closed form, which read as many pairs as those of whole calls read calls."""
        first = [
            step
            for step, row in enumerate(self.placed.rows)
            if changes_nothing(row, fitted_on.scale_count)
        ]
        return assess(
            fitted_on, held_out, self.placed.positions, history=2 * HISTORY, unchanged=first
        )


def can_pair(topology: Topology) -> bool:
    """Whether a step calls the denoiser twice, and either call can be left out."""
    return (
        topology.groups is None
        and len(topology.streams) == 2
        and topology.streams[0] in topology.blocks
        and len(unconditional_calls(topology)) == 1
    )


def paired(subnet: SubNet, runs: Trajectories) -> Paired:
    """The same calls, rows and costs, with two steps in the place of each whole call.

    The first of the two is without guidance, and the second one reuses its call. So rows can read both, and
    weigh the halves of guidance as they like. Here they read what those of `subnet` read.

    Args:
        subnet: placed calls with fitted rows, whole or half.
        runs: of the full sampler.
    """
    blocks = subnet.topology.blocks
    first, (later,) = blocks.index(subnet.topology.streams[0]), unconditional_calls(subnet.topology)
    is_whole = [row[later] is Action.RUN for row in subnet.actions]
    placed = _rows_of_pairs(placed_of(subnet, runs), is_whole, runs.scale_count)
    rows: list[list[Action]] = []
    for row, pair in zip(subnet.actions, is_whole, strict=True):
        rows += [list(row), list(row)] if pair else [list(row)]
        if pair:
            rows[-2][later], rows[-1][first] = Action.SKIP, Action.REUSE
    whole = replace(
        subnet,
        actions=(subnet.actions[is_whole.index(True)],) * len(rows),
        coefficients=(),
        fitted=fitted_sampler(runs, placed),
    )
    return Paired(whole, with_rows(whole, rows), placed)


def _rows_of_pairs(placed: Placed, is_whole: Sequence[bool], scales: int) -> Placed:
    """`placed` with two positions and rows per whole call; the first row of the two changes nothing."""
    positions: list[float] = []
    rows: list[Tensor] = []
    for call, (position, row) in enumerate(zip(placed.positions, placed.rows, strict=True)):
        if is_whole[call]:
            positions.append(position)
            rows.append(row.new_ones(scales))
        positions.append(position)
        rows.append(_spread(row.view(-1, scales), is_whole[call::-1]).flatten())
    return Placed(tuple(positions), tuple(rows), math.inf)


def _spread(row: Tensor, newest: Sequence[bool]) -> Tensor:
    """Weights `[features, scales]` of the input and the newest predictions, with 0 for those without guidance."""
    found = [row[:1]]
    for weight, pair in zip(row[1:], newest, strict=False):
        found += [weight[None], *([torch.zeros_like(weight)[None]] if pair else [])]
    return torch.cat(found)
