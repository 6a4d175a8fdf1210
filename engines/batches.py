"""Pictures that differ in nothing but their seeds share runs. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from engines.errors import EngineError
from engines.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from engines.base import Engine
    from exporter.bundle import Bundle

    Made = TypeVar("Made")


@dataclass(frozen=True)
class Wanted:
    """One picture that is asked for.

    Attributes:
        prompt: text, or class name or number.
        negative: what to guide away from.
        guidance: scale; None is the bundle's.
        seed: of its noises.
    """

    prompt: str
    negative: str
    guidance: float | None
    seed: int

    @property
    def shared(self) -> tuple[object, ...]:
        """What the pictures of one run have in common."""
        return (self.prompt, self.negative, self.guidance)


def largest_for(by_images: Mapping[int, Made], waiting: int) -> Made:
    """The entry with the most pictures per run, at most `waiting`; if all make more, that with the fewest.

    Args:
        by_images: by the number of pictures that a run makes.
        waiting: pictures that are wanted.
    """
    return by_images[max((n for n in by_images if n <= waiting), default=min(by_images))]


def filled(seeds: Sequence[int], images: int) -> int | list[int]:
    """The `seed` of `Runner.run` for `images` pictures; the last seed is repeated for those nobody asked for."""
    found = [*seeds, *[seeds[-1]] * (images - len(seeds))]
    return found[0] if images == 1 else found


class Batches:
    """The variants of a bundle that make pictures of one size, loaded on an engine."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        """Load those that have the size of `bundle`."""
        self.runners = {each.shape.images: Runner(each, engine) for each in of_its_size(bundle)}

    def make(self, wanted: Sequence[Wanted]) -> list[NDArray[np.uint8] | EngineError]:
        """Each picture, in the order of `wanted`, or why its run failed."""
        made: dict[int, NDArray[np.uint8] | EngineError] = {}
        for shared in dict.fromkeys(each.shared for each in wanted):
            equal = [number for number, each in enumerate(wanted) if each.shared == shared]
            while equal:
                runner = largest_for(self.runners, len(equal))
                images = runner.bundle.shape.images
                taken, equal = equal[:images], equal[images:]
                made.update(zip(taken, _run(runner, [wanted[n] for n in taken]), strict=True))
        return [made[number] for number in range(len(wanted))]


def of_its_size(bundle: Bundle) -> Iterable[Bundle]:
    """The variants of a bundle that make pictures of the size of this one."""
    size = bundle.shape.height, bundle.shape.width
    return (each for each in bundle.variants() if (each.shape.height, each.shape.width) == size)


def _run(runner: Runner, wanted: Sequence[Wanted]) -> list[NDArray[np.uint8] | EngineError]:
    """One run of equal pictures."""
    first, images = wanted[0], runner.bundle.shape.images
    try:
        result = runner.run(
            first.prompt,
            seed=filled([each.seed for each in wanted], images),
            negative=first.negative,
            guidance=first.guidance,
        )
    except EngineError as error:
        return [error] * len(wanted)
    return [result.images[place].copy() for place in range(len(wanted))]
