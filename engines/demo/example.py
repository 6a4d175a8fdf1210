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
        contenders: the rows; the first is the full sampler.
        pictures: prompts to sample.
        gain: by what differences between pictures are multiplied, to be seen.
        call: further arguments of the pipeline's call.
    """

    name: str
    folder: Path
    title: str
    guidance: float
    contenders: tuple[Contender, ...]
    pictures: int
    gain: int
    call: tuple[tuple[str, Any], ...] = ()

    @property
    def pipeline(self) -> Path:
        """Its directory."""
        return self.folder / self.name

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
    "shapes-sd", FOLDER / "shapes", "shapes-sd, 50-step DDIM",
    guidance=4.0,
    pictures=32,
    gain=20,
    contenders=(
        Contender("full sampler", "full", _searched("full")),
        Contender("DeepCache, interval 5", "deepcache", _searched("deepcache", interval=5)),
        Contender("fewer steps", "fewer-steps", _searched("fewer-steps", keep=0.2)),
        Contender("DiP-GO", "dip-go", _shipped("dip-go")),
        Contender("carve", PROVED, _shipped("carve")),
        Contender(
            "carve, a short search", "carve-live",
            _searched("carve", keep=0.2, pictures=8, iterations=2),
        ),
    ),
)  # fmt: skip
EMOJI = Example(
    "emoji-sd3", FOLDER / "emoji", "emoji-sd3, 28 flow-match Euler steps",
    guidance=5.0,
    pictures=32,
    gain=5,
    call=(("max_sequence_length", 1),),
    contenders=(
        Contender("full sampler", "full", _searched("full")),
        Contender("FORA, interval 3", "fora", _fora(3)),
        Contender("fewer steps", "fewer-steps", _searched("fewer-steps", keep=0.25)),
        Contender("DiP-GO", "dip-go", _shipped("dip-go")),
        Contender("carve", PROVED, _shipped("carve")),
        Contender(
            "carve, a short search", "carve-live",
            _searched("carve", keep=0.25, pictures=8, iterations=2),
        ),
    ),
)  # fmt: skip
EXAMPLES = (EMOJI, SHAPES)
