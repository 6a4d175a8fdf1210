"""Topologies and SubNets small enough to check by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.core.actions import RECORDS, Action
from search.core.subnet import Binding, Granularity, SubNet
from search.core.timestep_grid import TimestepGrid
from search.core.topology import Target, TargetKind, Topology

if TYPE_CHECKING:
    from collections.abc import Iterable

ACTIONS = {
    "R": Action.RUN,
    "c": Action.REUSE,
    "d": Action.DELTA,
    "s": Action.SKIP,
    "f": Action.FORECAST,
}


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


def branch() -> Topology:
    """latents -> stem -> attn -> out -> prediction, and stem -> out: out adds attn to its input.

    Only the stem reads latents or timestep. Without attn there are zeros in its place.
    """
    return made(
        blocks=("stem", "attn", "out"),
        ports=((0, 0, (2, 4)), (1, 0, (2, 4)), (2, 0, (2, 4))),
        computations=(
            ("port", 0, [], True),
            ("port", 1, [0], False),
            ("port", 2, [0, 1], False),
            ("prediction", -1, [2], False),
            ("base", 1, [], False),
            ("base", 2, [0], False),
        ),
        bases=((1, None, None), (2, 0, 0)),
        units=("stem", "attn", "out"),
        segments=(
            ([0], 100, 10, [0]),
            ([1], 100, 10, [1]),
            ([2], 100, 10, [2]),
            ([3], 1, 1, []),
        ),
    )


def streams() -> Topology:
    """Three blocks in a row that each work on two streams at once; the prediction reads both.

    The second stream begins with the prompt, the first with the latents.
    """
    return made(
        blocks=("a", "b", "c"),
        ports=tuple((block, index, (2, 4)) for block in range(3) for index in range(2)),
        computations=(
            *(("port", port, [], True) for port in (0, 1)),
            *(("port", port, [0, 1], True) for port in (2, 3)),
            *(("port", port, [2, 3], True) for port in (4, 5)),
            ("prediction", -1, [4, 5], False),
            ("base", 0, [], True),
            ("base", 1, [], False),
            *(("base", port, [port - 2], False) for port in range(2, 6)),
        ),
        bases=((0, 0, None), (1, 1, None), *((p, p % 2, p - 2) for p in range(2, 6))),
        units=("a", "b", "c"),
        segments=(
            ([0, 1, 7], 7, 1, []),
            *(([2 * b, 2 * b + 1], 100, 10, [b]) for b in range(3)),
            ([6], 1, 1, []),
        ),
    )


def guided_at_first() -> Topology:
    """Two steps of two calls, each of a block a and what follows, and then steps of the first alone.

    The prediction of the first two steps reads both calls, that of the others the first.
    """
    return made(
        groups={
            "of_steps": [0, 0, 1, 1],
            "calls": [["cond", "uncond"], ["cond"]],
            "networks": [["cond", "unet"], ["uncond", "unet"]],
        },
        blocks=("cond/a", "cond", "uncond/a", "uncond"),
        ports=tuple((block, 0, (1, 4)) for block in range(4)),
        computations=(
            ("port", 0, [], True),
            ("port", 1, [0], True),
            ("port", 2, [], True),
            ("port", 3, [2], True),
            ("prediction", -1, [1, 3], False),
            ("prediction", -2, [1], False),
            ("base", 0, [], True),
            ("base", 2, [], True),
        ),
        bases=((0, 0, None), (2, 0, None)),
        units=("cond/a", "uncond/a"),
        segments=(
            ([0, 2], 10, 5, []),
            ([0], 100, 0, [0]),
            ([1], 20, 0, []),
            ([2], 100, 0, [1]),
            ([3], 20, 0, []),
            ([4], 1, 0, []),
        ),
    )


def made(**parts: Any) -> Topology:
    """From the JSON form; nothing says what of the segments is attention."""
    segments = [[*segment, None] for segment in parts.pop("segments")]
    return Topology.from_json({**parts, "segments": segments})


def subnet(topology: Topology, *rows: str, method: str = "toy") -> SubNet:
    """A SubNet whose rows are spelled with R (run), c (reuse), d (delta), s (skip), f (forecast)."""
    actions = tuple(tuple(ACTIONS[letter] for letter in row) for row in rows)
    return SubNet(
        binding=Binding(
            denoiser="Toy",
            fingerprint="0" * 64,
            scheduler="DDIMScheduler",
            scheduler_config={"beta": 0.1},
            grid=TimestepGrid(len(rows)),
            timesteps=tuple(float(1000 - 100 * i) for i in range(len(rows))),
            latent_shape=(1, 2, 2),
            noise_shape=(1, 2, 2),
            guided=True,
        ),
        granularity=Granularity.STAGE,
        topology=topology,
        actions=actions,
        guidance=7.5,
        full_calls=len(rows),
        method=method,
        coefficients=tuple(
            (step, block, RECORDS[action].default)
            for step, row in enumerate(actions)
            for block, action in enumerate(row)
            if RECORDS[action].free
        ),
    )


def spell(topology: Topology, target: Target) -> str:
    """A target in words: `a`, `down:1`, `b DELTA`, `a..c residual`; `prediction`."""
    if target.kind is TargetKind.PREDICTION:
        return "prediction"
    port = topology.ports[target.port]
    first = "" if target.base in (-1, target.port) else f"{_block(topology, target.base)}.."
    index = f":{port.index}" if port.index else ""
    what = "" if target.kind is TargetKind.PORT else f" {target.action or target.kind}"
    return f"{first}{_block(topology, target.port)}{index}{what}"


def spelled(topology: Topology, targets: Iterable[Target]) -> set[str]:
    """Targets in words."""
    return {spell(topology, target) for target in targets}


def _block(topology: Topology, port: int) -> str:
    return topology.blocks[topology.ports[port].block]
