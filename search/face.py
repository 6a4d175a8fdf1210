"""The public functions of `search` that no other module needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from search.core.subnet import SubNet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager


def load_subnet(path: Path | str) -> SubNet:
    """Read a SubNet file, as a search or an import writes it.

    Raises:
        SearchError: the file is not a SubNet, or this version cannot read it.
    """
    return SubNet.load(Path(path))


def progress() -> AbstractContextManager[Callable[..., None]]:
    """Show the messages of the function that it gives, which is to be passed on as `report`.

    In a terminal they stand beside a bar, in a notebook in a line that each message overwrites; both go at the
    end. Elsewhere nothing is shown.
    """
    from search.core.progress import status

    return status()


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
        pipeline: a pipeline directory, as diffusers' `save_pretrained` writes it.
        keep: the fraction of the full sampler's multiply-accumulates to keep.
        method: one of the methods of `stepcarve search`.
        prompts: the prompts to search with; empty: the pipeline's own or built-in ones.
        steps: the number of steps of the full sampler; None: the pipeline's own.
        scheduler: a diffusers class name or a short name; None: the pipeline's own.
        guidance: the guidance scale; None: the pipeline's own.
        guidance_range: the least and the largest scale to fit the sampler for; None: `guidance` alone.
        size: height and width of the pictures in pixels; None: the pipeline's own.
        pictures: the number of pictures to calibrate with; None: the method's default.
        iterations: the number of iterations of the optimiser; None: the method's default.
        seed: the seed for noise and random choices.
        device: `cpu` or `cuda`.
        report: called with a progress message and the completed fraction (or None).

    Returns:
        The SubNet that was found.

    Raises:
        SearchError: `pipeline` is not a pipeline, or an option does not fit it or the method.
    """
    from search.methods.options import Options
    from search.methods.registry import method_of, needs_weights, search
    from search.model.opening import open_asked

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
