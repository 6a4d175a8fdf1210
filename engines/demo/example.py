"""What the demo shows, on each of the pipelines that come with the repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from search.core.subnet import SubNet
    from search.model.pipeline import Pipeline

FOLDER = Path(__file__).parent.parent.parent / "examples"
PROVED = "carve"
"""The file of the contender that is compared with PyTorch."""


@dataclass(frozen=True)
class Contender:
    """A line of the table before it is run.

    Attributes:
        name: in the table.
        file: of its bundle and pictures.
        make: searches or loads its SubNet.
    """

    name: str
    file: str
    make: Callable[[Pipeline, Example], SubNet]


@dataclass(frozen=True)
class Example:
    """A pipeline with its prompts, its judge and what is compared on it.

    Attributes:
        name: of the pipeline's directory in `folder`.
        folder: with `prompts.txt` and `judge.onnx` too.
        title: of the table.
        guidance: scale.
        keep: of the methods that have a budget.
        rival: what caches blocks by a fixed rule, as people do today.
        gain: by what differences between pictures are multiplied, to be seen.
        pictures: prompts to sample.
        call: further arguments of the pipeline's call.
    """

    name: str
    folder: Path
    title: str
    guidance: float
    keep: float
    rival: Contender
    gain: int
    pictures: int = 32
    call: tuple[tuple[str, Any], ...] = ()

    @property
    def pipeline(self) -> Path:
        """Its directory."""
        return self.folder / self.name

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """The rows; the first is the full sampler."""
        keep = self.keep
        return (
            Contender("full sampler", "full", _searched("full")),
            self.rival,
            Contender("fewer steps", "fewer-steps", _searched("fewer-steps", keep=keep)),
            Contender("DiP-GO", "dip-go", _shipped("dip-go")),
            Contender("carve", PROVED, _shipped("carve")),
            Contender(
                "carve, a short search",
                "carve-live",
                _searched("carve", keep=keep, pictures=8, iterations=2),
            ),
        )

    def prompts(self) -> list[str]:
        """All of them."""
        return (self.folder / "prompts.txt").read_text().splitlines()


def _searched(method: str, **options: Any) -> Callable[[Pipeline, Example], SubNet]:
    def make(opened: Pipeline, example: Example) -> SubNet:
        from search.methods.options import Options
        from search.methods.registry import search

        return search(opened, method, Options(guidance=example.guidance, **options))

    return make


def _shipped(name: str) -> Callable[[Pipeline, Example], SubNet]:
    def make(_: Pipeline, example: Example) -> SubNet:
        from search.core.subnet import SubNet

        return SubNet.load(example.folder / "subnets" / f"{name}.json")

    return make


def _fora(interval: int) -> Callable[[Pipeline, Example], SubNet]:
    def make(opened: Pipeline, example: Example) -> SubNet:
        from search.core.granularity import Granularity
        from search.frontier.rivals.layers import fora_table

        full = _searched("full", granularity=Granularity.LAYER)(opened, example)
        return fora_table(full, interval)

    return make


SHAPES = Example(
    "shapes-sd",
    FOLDER / "shapes",
    "shapes-sd, 50-step DDIM",
    guidance=4.0,
    keep=0.2,
    rival=Contender("DeepCache, interval 5", "deepcache", _searched("deepcache", interval=5)),
    gain=20,
)
EMOJI = Example(
    "emoji-sd3",
    FOLDER / "emoji",
    "emoji-sd3, 28 flow-match Euler steps",
    guidance=5.0,
    keep=0.25,
    rival=Contender("FORA, interval 3", "fora", _fora(3)),
    gain=5,
    call=(("max_sequence_length", 1),),
)
EXAMPLES = (EMOJI, SHAPES)
