"""Both halves of guidance in the rows: at each call the prediction without guidance, and then the one with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from search.core.actions import Action
from search.core.streams import is_inside
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


def paired(full: SubNet, subnet: SubNet, runs: Trajectories) -> Paired:
    """The same calls, rows and costs, with two steps in the place of each call with both halves.

    The first of the two is without guidance, and the second one reuses its call. So rows can read both, and
    weigh the halves of guidance as they like. Here they read what those of `subnet` read.

    Args:
        full: runs everything.
        subnet: placed calls with fitted rows; whole, half or thin.
        runs: of the full sampler.
    """
    first, (later,) = full.topology.call_blocks[0], unconditional_calls(full.topology)
    is_pair = [row[first] is row[later] is Action.RUN for row in subnet.actions]
    placed = _rows_of_pairs(placed_of(subnet, runs), is_pair, runs.scale_count)
    rows: list[list[Action]] = []
    calls: list[int] = []
    for call, (row, pair) in enumerate(zip(subnet.actions, is_pair, strict=True)):
        if pair:
            rows.append(_without(full, row, later, Action.SKIP, is_first=not rows))
            rows.append(_without(full, row, first, Action.REUSE, is_first=False))
        else:
            rows.append([*row])
        calls += [call] * (1 + pair)
    whole = replace(
        subnet,
        actions=full.actions[:1] * len(rows),
        coefficients=(),
        fitted=fitted_sampler(runs, placed),
    )
    found = with_rows(whole, rows)
    weights = {(call, block): each for call, block, each in subnet.coefficients}
    own = tuple((step, block, weights[calls[step], block]) for step, block, _ in found.coefficients)
    return Paired(whole, replace(found, coefficients=own), placed)


def _without(
    full: SubNet, row: Sequence[Action], left_out: int, instead: Action, *, is_first: bool
) -> list[Action]:
    """`row` with another action in the place of one of its calls.

    The blocks of that call keep what they emitted, for later steps to read. Before the first step there is
    nothing to keep.
    """
    names = full.topology.blocks
    found = [
        Action.REUSE if not is_first and is_inside(name, names[left_out]) else action
        for name, action in zip(names, row, strict=True)
    ]
    found[left_out] = instead
    return found


def _rows_of_pairs(placed: Placed, is_pair: Sequence[bool], scales: int) -> Placed:
    """`placed` with two positions and rows per pair; the first row of the two changes nothing."""
    positions: list[float] = []
    rows: list[Tensor] = []
    for call, (position, row) in enumerate(zip(placed.positions, placed.rows, strict=True)):
        if is_pair[call]:
            positions.append(position)
            rows.append(row.new_ones(scales))
        positions.append(position)
        rows.append(_spread(row.view(-1, scales), is_pair[call::-1]).flatten())
    return Placed(tuple(positions), tuple(rows), math.inf)


def _spread(row: Tensor, newest: Sequence[bool]) -> Tensor:
    """Weights `[features, scales]` of the input and the newest predictions, with 0 for those without guidance."""
    found = [row[:1]]
    for weight, pair in zip(row[1:], newest, strict=False):
        found += [weight[None], *([torch.zeros_like(weight)[None]] if pair else [])]
    return torch.cat(found)
