"""Options that several commands on engines share, one decorator each."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import click
import cloup

from engines.base import ENGINES, EngineOptions
from search.commands.shared import (
    Decorator,
    device_option,
    option_group,
)
from search.commands.values import AT_LEAST_0, AT_LEAST_1, PipelineDirectory, Whole

if TYPE_CHECKING:
    from collections.abc import Callable

engine_option: Decorator = cloup.option(
    "--engine",
    "engine_name",
    type=click.Choice(list(ENGINES)),
    default="onnxruntime",
    help="Run the graphs on this engine.",
)
threads_option: Decorator = cloup.option(
    "--threads",
    type=AT_LEAST_1,
    help="Compute with this many threads, on onnxruntime or openvino.  [default: the engine's choice]",
)
pipeline_option: Decorator = cloup.option(
    "--pipeline",
    type=PipelineDirectory(),
    help="The pipeline that the bundle was made from.  [default: where it was then]",
)
prompt_option: Decorator = cloup.option(
    "--prompt", help="Sample this text, or this class by its name or number."
)
label_option: Decorator = cloup.option("--label", help="Sample this class, by its number or name.")
_OPTIONS: tuple[Decorator, ...] = (
    device_option,
    threads_option,
    cloup.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        help="Compute in this type, on openvino.  [default: float32]",
    ),
    cloup.option(
        "--compute-capability",
        help="Build for GPUs of this compute capability, such as 8.9, with tensorrt-rtx.  [default: this "
        "machine's]",
    ),
    cloup.option(
        "--optimization-level",
        type=Whole(0, 5),
        help="Optimise this hard, with tensorrt.",
    ),
    cloup.option(
        "--workspace",
        type=AT_LEAST_0,
        help="Let tensorrt's builder use this much memory, in MiB.",
    ),
    cloup.option(
        "--strip-weights",
        is_flag=True,
        help="Leave the weights out of tensorrt's plans; they are read from the bundle.",
    ),
    cloup.option(
        "--cuda-graph/--no-cuda-graph",
        default=True,
        help="On CUDA, record the calls once and replay them.",
    ),
)
_FIELDS = tuple(EngineOptions.__dataclass_fields__)


def engine_options(engine: Decorator = engine_option) -> Decorator:
    """The engine, its device, and what it can be asked for as the argument `options`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def with_options(**given: Any) -> Any:
            options = EngineOptions(**{name: given.pop(name) for name in _FIELDS})
            return function(options=options, **given)

        return option_group("Engine", engine, *_OPTIONS)(with_options)

    return decorate
