"""Errors of the libraries while a diffusers pipeline runs, as one sentence."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.compiler import is_exporting

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Iterator

_OURS = ("search", "exporter", "engines")
LONGEST = 10**9
"""Tokenizers that do not say how long a text may be say more than this."""


@contextmanager
def pipeline_failures(pipe: Any) -> Iterator[None]:
    """While open, any error of a library becomes a `SearchError` that names the pipeline's class."""
    try:
        yield
    except Exception as error:  # diffusers raises whatever its code runs into
        if type(error).__module__.partition(".")[0] in _OURS:
            raise
        raise SearchError(sentence(pipe, error)) from error


def sentence(pipe: Any, error: Exception) -> str:
    """The pipeline's error, and missing parts or settings that may be the cause."""
    message = " ".join(str(error).split())[:300].rstrip(".")
    lacks = list(_lacking(pipe))
    if isinstance(error, ValueError) and not lacks:
        if "`prompt`" in message and "list" in message:
            return (
                f"{type(pipe).__name__} takes one text as its prompt and no list of texts, as pipelines do "
                "that make one picture at a time; such pipelines are not supported"
            )
        return f"{type(pipe).__name__} refuses these settings: {message}; choose others"
    advice = (
        "; ".join(lacks) or "check whether diffusers alone runs it, and repair or replace that part"
    )
    # While it is exported, what fails may be the tracing of what works in diffusers.
    does = "cannot be traced here, by" if is_exporting() else "itself fails here with"
    return f"{type(pipe).__name__} {does} {type(error).__name__}: {message}; {advice}"


def _lacking(pipe: Any) -> Iterator[str]:
    """Parts and settings without which most pipelines do not run."""
    optional = getattr(pipe, "_optional_components", ())
    absent = [
        name for name, part in pipe.components.items() if part is None and name not in optional
    ]
    if absent:
        yield f"its model_index.json has no {' and no '.join(absent)}, so give a pipeline that has"
    for name, part in pipe.components.items():
        if getattr(part, "model_max_length", 0) > LONGEST:
            length = _positions(getattr(pipe, name.replace("tokenizer", "text_encoder"), None))
            yield (
                f"its {name} does not say how long texts may be, so write "
                f'"model_max_length": {length} into its tokenizer_config.json'
            )
    denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    if denoiser is not None and getattr(denoiser.config, "sample_size", 0) is None:
        yield "its denoiser's config.json has no sample_size, so give --height and --width"


def _positions(encoder: Any) -> int:
    """How many tokens a text encoder takes."""
    return int(getattr(getattr(encoder, "config", None), "max_position_embeddings", None) or 77)
