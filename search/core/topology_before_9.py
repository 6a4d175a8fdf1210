"""Topologies in SubNet files of schemas 1 to 8, whose later calls of a step had their input as base."""

from __future__ import annotations

from dataclasses import replace

from search.core.topology import Topology, base_of


def without_inputs_of_calls(topology: Topology) -> Topology:
    """`topology` without these bases, since an input cannot stand for a prediction; newer ones as they are."""
    later = {block for block, name in enumerate(topology.blocks) if name in topology.later_calls}
    dropped = {
        port
        for port, base in topology.bases.items()
        if topology.ports[port].block in later and base.prediction is None
    }
    if not dropped:
        return topology
    targets = frozenset(map(base_of, dropped))
    left = (replace(s, targets=s.targets - targets) for s in topology.segments)
    return replace(
        topology,
        computations={t: c for t, c in topology.computations.items() if t not in targets},
        segments=tuple(segment for segment in left if segment.targets),
        bases={port: base for port, base in topology.bases.items() if port not in dropped},
    )
