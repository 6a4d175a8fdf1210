"""Topologies and SubNets small enough to check by hand."""

from __future__ import annotations

from typing import Any

from search.core.actions import Action
from search.core.course import Course
from search.core.subnet import Binding, Granularity, SubNet
from search.core.topology import Topology

ACTIONS = {"R": Action.RUN, "c": Action.REUSE, "d": Action.DELTA, "s": Action.SKIP}


def chain(varying: tuple[bool, ...] = (True, True, True)) -> Topology:
    """latents -> stem -> a -> b -> c -> prediction; each block costs 100 and the head 1.

    All three allow DELTA. The stem is the base of a and costs 7 of its 100.
    """
    return made(
        blocks=("a", "b", "c"),
        ports=((0, 0, (2, 4)), (1, 0, (2, 4)), (2, 0, (2, 4))),
        computations=(
            ("port", 0, [], varying[0]),
            ("port", 1, [0], varying[1]),
            ("port", 2, [1], varying[2]),
            ("prediction", -1, [2], False),
            ("base", 0, [], True),
            ("base", 1, [0], False),
            ("base", 2, [1], False),
        ),
        bases=((0, 0, None), (1, 0, 0), (2, 0, 1)),
        units=("a", "b", "c"),
        segments=(
            ([0, 4], 7, 1, []),
            ([0], 93, 9, [0]),
            ([1], 100, 10, [1]),
            ([2], 100, 10, [2]),
            ([3], 1, 1, []),
        ),
    )


def hourglass() -> Topology:
    """latents -> down -> deep -> up -> prediction, and down -> up as a skip connection.

    up allows DELTA; its base, the shortcut of down and deep together, costs 10 of its 40.
    """
    return made(
        blocks=("down", "deep", "up"),
        ports=((0, 0, (2, 4)), (0, 1, (2, 4)), (1, 0, (2, 8)), (2, 0, (2, 4))),
        computations=(
            ("port", 0, [], True),
            ("port", 1, [0], False),
            ("port", 2, [1], True),
            ("port", 3, [0, 2], True),
            ("prediction", -1, [3], False),
            ("base", 3, [0, 2], False),
        ),
        bases=((3, 0, None),),
        units=("down", "deep", "up"),
        segments=(
            ([0], 20, 2, [0]),
            ([1], 10, 1, [0]),
            ([2], 500, 50, [1]),
            ([3], 30, 3, [2]),
            ([3, 5], 10, 1, []),
            ([0, 3], 5, 1, []),
            ([4], 1, 1, []),
        ),
    )


def made(**parts: Any) -> Topology:
    """From the JSON form; nothing says what of the segments is attention."""
    segments = [[*segment, None] for segment in parts.pop("segments")]
    return Topology.from_json({**parts, "segments": segments})


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
