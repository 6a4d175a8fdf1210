"""The public functions of `search` that no other module needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from search.core.subnet import SubNet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def load_subnet(path: Path | str) -> SubNet:
    """Read a SubNet that a search, an import or an export has written.

    Raises:
        SearchError: it is no SubNet, or one that this version cannot read.
    """
    return SubNet.load(Path(path))


def optimize(
    pipeline: Path | str,
    *,
    keep: float = 0.5,
    method: str = "carve",
    prompts: Sequence[str] = (),
    steps: int | None = None,
    scheduler: str | None = None,
    guidance: float | None = None,
    guidance_range: tuple[float, float] | None = None,
    size: tuple[int, int] | None = None,
    pictures: int | None = None,
    iterations: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    report: Callable[..., None] = lambda _text, _share=None: None,
) -> SubNet:
    """Decide which blocks of a pipeline's denoiser run at which step.

    Args:
        pipeline: a directory that diffusers' `save_pretrained` wrote.
        keep: fraction of the full sampler's multiply-accumulates that may remain.
        method: as `stepcarve search --method`.
        prompts: to search with; none stands for the pipeline's own or built-in ones.
        steps: of the full sampler; None is the pipeline's own number.
        scheduler: a class of diffusers or a short name; None is the pipeline's own.
        guidance: scale; None is the pipeline's own.
        guidance_range: the least and the largest scale that fitted rows are for; None: `guidance` alone.
        size: of the pictures, height and width; None is the pipeline's own.
        pictures: to calibrate with; None is the method's default.
        iterations: of its optimiser; None is the method's default.
        seed: of noise and random choices.
        device: `cpu` or `cuda`.
        report: called with a progress message and the completed fraction, or None.

    Raises:
        SearchError: no pipeline, or options that do not fit it or the method.
    """
    from search.methods.options import Options
    from search.methods.registry import method_of, needs_weights, search
    from search.model.pipeline import open_asked

    height, width = size or (None, None)
    options = Options(
        granularity=method_of(method).granularity,
        keep=keep,
        prompts=tuple(prompts),
        steps=steps,
        guidance=guidance,
        guidance_range=guidance_range,
        height=height,
        width=width,
        pictures=pictures,
        iterations=iterations,
        seed=seed,
    )
    report("open pipeline", None)
    opened = open_asked(
        Path(pipeline),
        scheduler=scheduler,
        weights=needs_weights(method, options),
        device=device,
    )
    return search(opened, method, options, report=report)
