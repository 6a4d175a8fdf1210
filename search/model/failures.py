"""Errors of the libraries while a diffusers pipeline runs, as one sentence."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from torch.compiler import is_exporting

from search.core.errors import SearchError
from search.model.answers import asks_for_values
from search.model.replaced import replaced
from search.model.stand_in_scheduler import UnknownError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_OURS = ("search", "exporter", "engines")
_LIBRARIES = re.compile(r"/(diffusers|transformers)/")
_WHOLE_OPERATION = re.compile(r"HigherOrderOperator (\w+)")
LONGEST = 10**9
"""Tokenizers that do not say how long a text may be say more than this."""


@contextmanager
def pipeline_failures(pipe: Any) -> Iterator[None]:
    """While open, any error of a library becomes a `SearchError` that names the pipeline's class.

    So does a language model that is to write a text.
    """
    try:
        with _writing_refused(pipe):
            yield
    except UnknownError as error:
        raise SearchError(error.sentence(type(pipe).__name__)) from error
    except Exception as error:  # diffusers raises whatever its code runs into
        if type(error).__module__.partition(".")[0] in _OURS:
            raise
        raise SearchError(sentence(pipe, error)) from error


@contextmanager
def _writing_refused(pipe: Any) -> Iterator[None]:
    """While open, no part of a pipeline writes tokens."""

    def refusing(name: str) -> Callable[..., Any]:
        def generate(*_: Any, **__: Any) -> Any:
            msg = (
                f"{type(pipe).__name__} generates text with its {name} before its loop, which a "
                "graph cannot do; switch that off with --call if the pipeline's call can, such "
                "as --call enable_prompt_rewrite=false, or take another pipeline"
            )
            raise SearchError(msg)

        return generate

    with ExitStack() as stack:
        for name, part in pipe.components.items():
            if hasattr(part, "generate"):
                stack.enter_context(replaced(part, "generate", refusing(name)))
        yield


def sentence(pipe: Any, error: Exception) -> str:
    """The pipeline's error, and missing parts or settings that may be the cause."""
    message = " ".join(str(error).split())[:300].rstrip(".")
    found = _WHOLE_OPERATION.search(message)
    if isinstance(error, NotImplementedError) and found is not None:
        return (
            f"{type(pipe).__name__} uses torch's {found[1]}, whose operations cannot be looked into; such "
            "pipelines are not supported"
        )
    lacks = list(_lacking(pipe))
    if isinstance(error, ValueError) and not lacks:
        if "`prompt`" in message and "list" in message:
            return (
                f"{type(pipe).__name__} takes a single text as its prompt, not a list, and makes "
                "one picture at a time; such pipelines are not supported"
            )
        return f"{type(pipe).__name__} refuses these settings: {message}; choose others"
    advice = "; ".join(lacks) or (
        "check whether the pipeline runs in diffusers alone, and repair or "
        "replace the part that fails"
    )
    if is_exporting():
        return f"{type(pipe).__name__} {_untraceable(error)}; such pipelines are not supported"
    return (
        f"{type(pipe).__name__} itself fails here with {type(error).__name__}: {message}; {advice}"
    )


def _untraceable(error: Exception) -> str:
    """What the pipeline does that works in diffusers and not in a trace, and where."""
    frames = [f for f in extract_tb(error.__traceback__) if _LIBRARIES.search(f.filename)]
    does = (
        "branches on the values of its tensors, which a graph cannot do"
        if asks_for_values(error)
        else "uses code that torch.export cannot trace"
    )
    where = f" ({frames[-1].name} in {Path(frames[-1].filename).name})" if frames else ""
    return f"{does}{where}"


def _lacking(pipe: Any) -> Iterator[str]:
    """Parts and settings without which most pipelines do not run."""
    optional = getattr(pipe, "_optional_components", ())
    absent = [
        name for name, part in pipe.components.items() if part is None and name not in optional
    ]
    if absent:
        yield f"its model_index.json has no {' and no '.join(absent)}, so give a complete pipeline"
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
