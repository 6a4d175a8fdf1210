"""The share of a step's cost that each action of each block saves. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from search.core.actions import RECORDS, Action, Source
from search.core.table import with_rows
from search.core.topology import PREDICTION, base_of, port_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from search.core.subnet import SubNet
    from search.core.topology import Topology


def read_in_step(topology: Topology, emits: Sequence[Action]) -> frozenset[int]:
    """The ports that a step with these actions needs, its reused ones included."""
    seen: set[int] = set()
    pending = [PREDICTION]
    while pending:
        for port in set(topology.reads(pending.pop())) - seen:
            seen.add(port)
            row = RECORDS[emits[topology.ports[port].block]].row
            pending += [port_of(port)] if Source.FRESH in row else []
            pending += [base_of(port)] if Source.BASE in row else []
    return frozenset(seen)


def cascade_shares(topology: Topology) -> NDArray[np.float64]:
    """Per block, the share of a full step's MACs that reusing it saves, `[N]`.

    That is the block with everything that becomes unread in the step (gamma in the paper).
    """
    shares = []
    for block in range(len(topology.blocks)):
        row = [Action.RUN] * len(topology.blocks)
        row[block] = Action.REUSE
        read = read_in_step(topology, row)
        computed = {port_of(port) for port in read if topology.ports[port].block != block}
        left = sum(s.macs for s in topology.needed({*computed, PREDICTION}))
        shares.append(1 - left / topology.macs)
    return np.array(shares)


def own_shares(topology: Topology) -> NDArray[np.float64]:
    """Per block, the share of a full step's MACs that only its own tensors need, `[N]`."""
    everything = {PREDICTION, *map(port_of, range(len(topology.ports)))}
    shares = []
    for ports in topology.ports_of:
        left = sum(s.macs for s in topology.needed(everything - set(map(port_of, ports))))
        shares.append(1 - left / topology.macs)
    return np.array(shares)


def action_costs(topology: Topology, choices: Sequence[Action]) -> NDArray[np.float64]:
    """What each choice of each block costs in the sparsity loss, `[N, A]`; all RUN adds up to 1."""
    cascade, own = cascade_shares(topology), own_shares(topology)
    costs = {
        Action.RUN: cascade,
        Action.REUSE: np.zeros_like(cascade),
        Action.DELTA: cascade - own,
    }
    columns: NDArray[np.float64] = np.stack([costs[choice] for choice in choices], axis=1)
    return columns / float(cascade.sum())


def reuse_unread(subnet: SubNet) -> SubNet:
    """`subnet` with REUSE for each block that nobody reads in its step.

    This is a choice, not a simplification: what later steps find in the cache grows older.
    """
    topology = subnet.topology
    rows = [subnet.actions[0]]
    for actions in subnet.actions[1:]:
        read = {topology.ports[port].block for port in read_in_step(topology, actions)}
        rows.append(
            tuple(action if block in read else Action.REUSE for block, action in enumerate(actions))
        )
    return with_rows(subnet, rows)
