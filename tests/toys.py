"""Topologies and SubNets small enough to check by hand."""

from __future__ import annotations

from search.core.course import Course
from search.core.subnet import Action, Binding, Granularity, SubNet
from search.core.topology import Port, Segment, Topology

ACTIONS = {"R": Action.RUN, "c": Action.REUSE, "d": Action.DELTA, "s": Action.SKIP}


def chain(varying: tuple[bool, ...] = (True, True, True)) -> Topology:
    """latents -> stem -> a -> b -> c -> prediction; each block costs 100 and the head 1.

    All three allow DELTA. The stem is the base of a and costs 7 of its 100.
    """
    names = ("a", "b", "c")
    return Topology(
        blocks=names,
        ports=tuple(Port(i, 0, (2, 4)) for i in range(3)),
        reads=tuple(
            map(frozenset, (set(), {0}, {1}, {2}, {0}, {4}, {0, 1}, {0, 6}, {1, 2}, {1, 8}))
        ),
        varies=(*varying, False, True, True, False, False, False, False),
        segments=(
            Segment(frozenset({0, 4, 5}), 7, 1, frozenset()),
            Segment(frozenset({0}), 93, 9, frozenset({"a"})),
            Segment(frozenset({1}), 100, 10, frozenset({"b"})),
            Segment(frozenset({2}), 100, 10, frozenset({"c"})),
            Segment(frozenset({3}), 1, 1, frozenset()),
        ),
        deltas=(0, 1, 2),
    )


def hourglass() -> Topology:
    """latents -> down -> deep -> up -> prediction, and down -> up as a skip connection.

    up allows DELTA; its base, the shortcut of down and deep together, costs 10 of its 40.
    """
    names = ("down", "deep", "up")
    return Topology(
        blocks=names,
        ports=(Port(0, 0, (2, 4)), Port(0, 1, (2, 4)), Port(1, 0, (2, 8)), Port(2, 0, (2, 4))),
        reads=tuple(map(frozenset, (set(), {0}, {1}, {0, 2}, {3}, {0, 2, 3}, {0, 2, 5}))),
        varies=(True, False, True, True, False, False, False),
        segments=(
            Segment(frozenset({0}), 20, 2, frozenset({"down"})),
            Segment(frozenset({1}), 10, 1, frozenset({"down"})),
            Segment(frozenset({2}), 500, 50, frozenset({"deep"})),
            Segment(frozenset({3}), 30, 3, frozenset({"up"})),
            Segment(frozenset({3, 5, 6}), 10, 1, frozenset()),
            Segment(frozenset({0, 3}), 5, 1, frozenset()),
            Segment(frozenset({4}), 1, 1, frozenset()),
        ),
        deltas=(2,),
    )


def subnet(topology: Topology, *rows: str, method: str = "toy") -> SubNet:
    """A SubNet whose rows are spelled with R (run), c (reuse), d (delta) and s (skip)."""
    return SubNet(
        binding=Binding(
            denoiser="Toy",
            fingerprint="0" * 64,
            scheduler="DDIMScheduler",
            scheduler_config={"beta": 0.1},
            course=Course(len(rows)),
            timesteps=tuple(float(1000 - 100 * i) for i in range(len(rows))),
            latent_shape=(1, 2, 2),
            noise_shape=(1, 2, 2),
            guided=True,
        ),
        granularity=Granularity.STAGE,
        topology=topology,
        actions=tuple(tuple(ACTIONS[letter] for letter in row) for row in rows),
        guidance=7.5,
        full_calls=len(rows),
        method=method,
    )
