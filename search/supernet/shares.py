"""The share of a step's cost that each action of each block saves. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from search.core.actions import RECORDS, Action, Source
from search.core.table import with_rows
from search.core.topology import base_of, port_of, prediction_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from search.core.subnet import SubNet
    from search.core.topology import Topology


def read_in_step(topology: Topology, emits: Sequence[Action], group: int = 0) -> frozenset[int]:
    """The ports that a step of a group needs with these actions, its reused ones included."""
    seen: set[int] = set()
    pending = [prediction_of(group)]
    while pending:
        for port in set(topology.reads(pending.pop())) - seen:
            seen.add(port)
            row = RECORDS[emits[topology.ports[port].block]].row
            pending += [port_of(port)] if Source.FRESH in row else []
            pending += [base_of(port)] if Source.BASE in row else []
    return frozenset(seen)


def cascade_shares(topology: Topology, group: int = 0) -> NDArray[np.float64]:
    """Per block, the share of a full step's MACs that reusing it saves, `[N]`.

    That is the block with everything that becomes unread in the step (gamma in the paper).
    """
    shares = []
    for block in range(len(topology.blocks)):
        row = [Action.RUN] * len(topology.blocks)
        row[block] = Action.REUSE
        read = read_in_step(topology, row, group)
        computed = {port_of(port) for port in read if topology.ports[port].block != block}
        left = sum(s.macs for s in topology.needed({*computed, prediction_of(group)}))
        shares.append(1 - left / topology.group_macs(group))
    return np.array(shares)


def own_shares(topology: Topology, group: int = 0) -> NDArray[np.float64]:
    """Per block, the share of a full step's MACs that only its own tensors need, `[N]`."""
    everything = {prediction_of(group), *map(port_of, topology.ports_of_group(group))}
    shares = []
    for ports in topology.ports_of:
        left = sum(s.macs for s in topology.needed(everything - set(map(port_of, ports))))
        shares.append(1 - left / topology.group_macs(group))
    return np.array(shares)


def action_costs(
    topology: Topology, choices: Sequence[Action], group: int = 0
) -> NDArray[np.float64]:
    """What each choice of each block costs in the sparsity loss, `[N, A]`; all RUN adds up to 1."""
    cascade, own = cascade_shares(topology, group), own_shares(topology, group)
    costs = {
        Action.RUN: cascade,
        Action.REUSE: np.zeros_like(cascade),
        Action.DELTA: cascade - own,
    }
    columns: NDArray[np.float64] = np.stack([costs[choice] for choice in choices], axis=1)
    return columns / float(cascade.sum())


def step_costs(subnet: SubNet, choices: Sequence[Action]) -> NDArray[np.float64]:
    """The same at each step, `[T, N, A]`; a block that a step does not have costs nothing there."""
    topology = subnet.topology
    costs = [action_costs(topology, choices, group) for group in range(topology.group_count)]
    made: NDArray[np.float64] = np.stack(
        [costs[topology.group_of(step)] for step in range(subnet.steps)]
    )
    return made


def reuse_unread(subnet: SubNet) -> SubNet:
    """`subnet` with REUSE for each block that nobody reads in its step.

    This is a choice, not a simplification: what later steps find in the cache grows older.
    """
    topology = subnet.topology
    rows = [subnet.actions[0]]
    for step, actions in enumerate(subnet.actions[1:], 1):
        needed = read_in_step(topology, actions, topology.group_of(step))
        read = {topology.ports[port].block for port in needed}
        rows.append(
            tuple(action if block in read else Action.REUSE for block, action in enumerate(actions))
        )
    return with_rows(subnet, rows)
