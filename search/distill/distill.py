"""Distillation: a denoiser without some blocks is trained to match the whole one, and written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import PartialState

from search.core.errors import SearchError
from search.core.files import require_free
from search.distill.data import Captioned, Draws, encode_pictures, load_picture
from search.distill.records import DistillProgress, DistillRun
from search.distill.skipped import skipped_blocks
from search.distill.student import save_pipeline
from search.distill.training import identity_of, train
from search.laptop.noising import Noising
from search.model.opening import open_for
from search.model.pictures import require_no_pictures
from search.model.removed import KEY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from search.core.subnet import SubNet
    from search.distill.recipe import DistillRecipe
    from search.distill.training import Report
    from search.model.pipeline import Pipeline


@dataclass(frozen=True)
class Distilled:
    """What a distillation has made.

    Attributes:
        removed: the blocks that are gone.
        params: of the teacher's denoiser and of the student's.
        iterations: that were made.
        seconds: that they took.
        last: means over the last tenth of the iterations.
    """

    removed: tuple[str, ...]
    params: tuple[int, ...]
    iterations: int
    seconds: float
    last: DistillProgress

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    def line(self) -> str:
        """For people."""
        before, after = self.params
        return (
            f"{len(self.removed)} blocks removed, {after / 1e6:.2f} of {before / 1e6:.2f} M parameters "
            f"left ({after / before:.1%}), {self.iterations} iterations in {self.seconds / 60:.1f} min, "
            f"output loss {self.last.output:.4f}"
        )


def distill(
    path: Path,
    subnet: SubNet,
    data: Captioned,
    recipe: DistillRecipe,
    out: Path,
    *,
    folder: Path,
    resume: bool = False,
    device: str = "cpu",
    report: Report = lambda _text, _share=None: None,
) -> Distilled:
    """Take the blocks that `subnet` skips out of a pipeline, train what is left, and save it.

    Started by `accelerate launch`, every process sees pictures of its own and gradients are averaged.

    Args:
        path: the teacher, a pipeline directory.
        subnet: of that pipeline, of SKIPs alone.
        data: to train on.
        recipe: how.
        out: the pipeline directory to make; must not be there.
        folder: for log, plot, checkpoint and encoded pictures.
        resume: go on from the checkpoint in `folder`, if there is one.
        device: cpu or cuda.
        report: called with a message and the completed fraction.

    Raises:
        SearchError: the SubNet is of another pipeline or does not only skip, `out` is there, or the
            checkpoint is of another run.
    """
    require_free(out)
    if recipe.mixed == "fp16" and device == "cpu":
        msg = (
            "the student cannot be trained in float16 on the CPU; use --dtype bfloat16, or --precision no "
            "to hold the teacher alone in float16"
        )
        raise SearchError(msg)
    names = skipped_blocks(subnet)
    report("open pipeline")
    pipeline = open_for(subnet, path, weights=True, device=device, dtype=recipe.dtype)
    require_no_pictures(pipeline.pipe, "distill")
    Noising.of(pipeline.pipe.scheduler)  # refuses what could never be trained on
    size = pipeline.size(subnet.binding.noise_shape)
    run_folder, state = DistillRun(folder), PartialState(cpu=device == "cpu")
    start = run_folder.load(resume=resume)
    if start is not None:  # another run is refused before the pictures are encoded
        run_folder.require_same(start, identity_of(pipeline, names, recipe, state.num_processes))
    with state.main_process_first():
        latents = _encoded(pipeline, data, size, subnet.binding.noise_shape, run_folder, report)
    student, done = train(
        pipeline,
        names,
        Draws(pipeline, latents, data.captions, size),
        recipe,
        folder=run_folder,
        start=start,
        report=report,
    )
    if state.is_main_process:
        save_pipeline(pipeline, student, out)
    state.wait_for_everyone()
    return summarise(pipeline.denoiser, student, done)


def _encoded(
    pipeline: Pipeline,
    data: Captioned,
    size: tuple[int, ...],
    noise_shape: tuple[int, ...],
    folder: DistillRun,
    report: Report,
) -> NDArray[np.float32]:
    """The latents of all pictures, made once and kept in `folder`."""
    files = data.files
    return folder.latents(
        (len(files), 2, *noise_shape),
        {
            "vae": _facts(sorted((pipeline.path / "vae").iterdir())),
            "size": size,
            "files": _facts(files),
        },
        lambda latents: encode_pictures(
            pipeline,
            lambda first, end: np.stack([load_picture(file, size) for file in files[first:end]]),
            len(files),
            latents,
            report,
        ),
    )


def _facts(files: Sequence[Path]) -> str:
    """The identity of the data files."""
    facts = [[file.name, (found := file.stat()).st_size, found.st_mtime_ns] for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def summarise(teacher: Any, student: Any, done: Sequence[DistillProgress]) -> Distilled:
    """What became of it."""
    tail = done[-max(1, len(done) // 10) :]
    means = {
        name: sum(getattr(entry, name) for entry in tail) / len(tail)
        for name in ("task", "output", "feature")
    }
    return Distilled(
        removed=tuple(student.config[KEY]),
        params=(_params(teacher), _params(student)),
        iterations=len(done),
        seconds=sum(entry.seconds for entry in done),
        last=dataclasses.replace(done[-1], **means),
    )


def _params(denoiser: nn.Module) -> int:
    return sum(parameter.numel() for parameter in denoiser.parameters())
