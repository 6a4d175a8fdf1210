"""Topologies and SubNets small enough to check by hand."""

from __future__ import annotations

from search.subnet import Action, Binding, Granularity, SubNet
from search.topology import Port, Segment, Topology

ACTIONS = {"R": Action.RUN, "c": Action.REUSE, "d": Action.DELTA, "s": Action.SKIP}


def chain(varying: tuple[bool, ...] = (True, True, True)) -> Topology:
    """latents -> a -> b -> c -> prediction; each costs 100, the head 1."""
    names = ("a", "b", "c")
    return Topology(
        blocks=names,
        ports=tuple(Port(i, 0, (2, 4)) for i in range(3)),
        reads=(frozenset(), frozenset({0}), frozenset({1}), frozenset({2})),
        varies=(*varying, False),
        segments=(
            *(Segment(frozenset({i}), 100, 10, frozenset({n})) for i, n in enumerate(names)),
            Segment(frozenset({3}), 1, 1, frozenset()),
        ),
    )


def hourglass() -> Topology:
    """latents -> down -> deep -> up -> prediction, and down -> up as a skip connection."""
    names = ("down", "deep", "up")
    return Topology(
        blocks=names,
        ports=(Port(0, 0, (2, 4)), Port(0, 1, (2, 4)), Port(1, 0, (2, 8)), Port(2, 0, (2, 4))),
        reads=(frozenset(), frozenset({0}), frozenset({1}), frozenset({0, 2}), frozenset({3})),
        varies=(True, False, True, True, False),
        segments=(
            Segment(frozenset({0}), 20, 2, frozenset({"down"})),
            Segment(frozenset({1}), 10, 1, frozenset({"down"})),
            Segment(frozenset({2}), 500, 50, frozenset({"deep"})),
            Segment(frozenset({3}), 40, 4, frozenset({"up"})),
            Segment(frozenset({0, 3}), 5, 1, frozenset()),
            Segment(frozenset({4}), 1, 1, frozenset()),
        ),
    )


def subnet(topology: Topology, *rows: str, method: str = "toy") -> SubNet:
    """A SubNet whose rows are spelled with R (run), c (reuse), d (delta) and s (skip)."""
    return SubNet(
        binding=Binding(
            denoiser="Toy",
            fingerprint="0" * 64,
            scheduler="DDIMScheduler",
            scheduler_config={"beta": 0.1},
            inference_steps=len(rows),
            timesteps=tuple(float(1000 - 100 * i) for i in range(len(rows))),
            latent_shape=(1, 2, 2),
            guided=True,
        ),
        granularity=Granularity.STAGE,
        topology=topology,
        actions=tuple(tuple(ACTIONS[letter] for letter in row) for row in rows),
        guidance=7.5,
        full_calls=len(rows),
        method=method,
    )
