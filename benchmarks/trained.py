"""The pipelines that we trained, as the benchmarks use them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from examples.emoji.models import GUIDANCE
from search.frontier.judge import Judge
from search.methods.prompts import split_prompts
from search.model.opening import open_asked

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from search.model.pipeline import Pipeline

EXAMPLES = Path(__file__).parent.parent / "examples"
REAL_PICTURES = 4096
"""How many real pictures of shapes are drawn for the judge."""


@dataclass(frozen=True)
class Trained:
    """A pipeline with the settings that its card recommends.

    Attributes:
        path: its directory.
        guidance: the scale; 1 for a student that needs none.
        steps: of its full sampler.
        few: the scheduler for few steps (None: its own) and their number.
        judge: the classifier that reads its pictures.
        real: makes real pictures `[N, H, W, 3]`, uint8, that were not trained on.
        call: further arguments of its call.
        held_out: file of prompts to evaluate with; None is half of the pipeline's own.
    """

    path: Path
    guidance: float
    steps: int
    few: tuple[str | None, int]
    judge: Path
    real: Callable[[], NDArray[np.uint8]]
    call: tuple[tuple[str, Any], ...] = ()
    held_out: Path | None = None

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.path.name

    @property
    def options(self) -> list[str]:
        """Command-line options for its guidance and the arguments of its call."""
        calls = [part for key, value in self.call for part in ("--call", f"{key}={value}")]
        return ["--guidance", f"{self.guidance:g}", *calls]

    def open(self, scheduler: str | None = None, *, split_streams: bool = False) -> Pipeline:
        """The pipeline, with `scheduler` or its own, and both halves of guidance as one call or as two."""
        return open_asked(
            self.path, scheduler=scheduler, call=self.call, split_streams=split_streams
        )

    def prompts(self, pipeline: Pipeline) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Prompts to search with and to evaluate with."""
        held_out = () if self.held_out is None else self.held_out.read_text().splitlines()
        return split_prompts(pipeline, search=(), evaluate=tuple(held_out))

    def real_features(self) -> NDArray[np.float32]:
        """What the judge makes of real pictures, `[N, F]`."""
        return Judge(self.judge).read(self.real()).features


def _shapes(place: str | None) -> NDArray[np.uint8]:
    from examples.shapes.evaluate import HELD_OUT_SEED
    from examples.shapes.pictures import draw

    return draw(REAL_PICTURES, np.random.default_rng(HELD_OUT_SEED), place=place).pixels


def _emoji() -> NDArray[np.uint8]:
    from examples.emoji.evaluate import draw_held_out

    return draw_held_out()[0]


SHAPES, EMOJI = EXAMPLES / "shapes", EXAMPLES / "emoji"
DPM_SOLVER = ("DPMSolverMultistepScheduler", 8)
SHAPES_SD = Trained(
    SHAPES / "shapes-sd", 4.0, 50, DPM_SOLVER, SHAPES / "judge.onnx", partial(_shapes, None)
)
SHAPES_DIT = Trained(
    SHAPES / "shapes-dit", 3.0, 50, DPM_SOLVER, SHAPES / "judge.onnx", partial(_shapes, "centred")
)
EMOJI_SD3 = Trained(
    EMOJI / "emoji-sd3", GUIDANCE, 28, (None, 8), EMOJI / "judge.onnx", _emoji,
    call=(("max_sequence_length", 1),), held_out=EMOJI / "prompts.txt",
)  # fmt: skip
EMOJI_STUDENT = replace(
    EMOJI_SD3, path=EMOJI / "emoji-4-steps", guidance=1.0, steps=4, few=(None, 4)
)
TRAINED = (SHAPES_SD, SHAPES_DIT, EMOJI_SD3, EMOJI_STUDENT)
TRAINED_NAMES = tuple(each.name for each in TRAINED)


def trained_named(name: str) -> Trained:
    """The pipeline of that name."""
    return TRAINED[TRAINED_NAMES.index(name)]
