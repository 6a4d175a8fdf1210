"""Options shared by the commands on engines, one decorator each."""

from __future__ import annotations

import functools
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any

import click
import cloup

from engines.base import HINTS, EngineOptions
from engines.kinds import engine_names, takers
from search.commands.shared import (
    Decorator,
    device_option,
    option_group,
    used_by,
)
from search.commands.values import (
    AT_LEAST_0,
    AT_LEAST_1,
    NUMBER,
    PATH,
    PipelineDirectory,
    Whole,
)

if TYPE_CHECKING:
    from collections.abc import Callable

engine_option: Decorator = cloup.option(
    "--engine",
    "engine_name",
    type=click.Choice(engine_names()),
    default="onnxruntime",
    help="Run the graphs on this engine.",
)
pipeline_option: Decorator = cloup.option(
    "--pipeline",
    type=PipelineDirectory(),
    help="The pipeline that the bundle was made from.  [default: the path it was exported from]",
)
lora_option: Decorator = cloup.option(
    "--lora",
    "--ip-adapter",
    "loras",
    type=PATH,
    multiple=True,
    help="A LoRA or IP-Adapter file that the bundle was made with; may be repeated.  [default: the path it "
    "was exported from]",
)
prompt_option: Decorator = cloup.option(
    "--prompt", help="The prompt; for a class-conditional pipeline, the name or number of a class."
)
label_option: Decorator = cloup.option(
    "--label", help="The class of a class-conditional pipeline, by name or number."
)
negative_option: Decorator = cloup.option(
    "--negative", default="", show_default=False, help="The negative prompt."
)
guidance_option: Decorator = cloup.option(
    "--guidance", type=NUMBER, help="Guidance scale.  [default: the bundle's]"
)
_TYPES: dict[str, click.ParamType[Any]] = {
    "threads": AT_LEAST_1,
    "resident": AT_LEAST_1,
    "precision": click.Choice(HINTS),
    "optimization_level": Whole(0, 5),
    "workspace": AT_LEAST_0,
}
"""Types of the options that are not plain text."""


def engine_setting(field: Field[Any]) -> Decorator:
    """The option for one field of `EngineOptions`; its help names the engines that take it."""
    flag = f"--{field.name.replace('_', '-')}"
    text = used_by(field.metadata["help"], takers(field.name))
    if field.metadata["type"] is not bool:
        return cloup.option(flag, type=_TYPES.get(field.name), help=text)
    if field.default:
        return cloup.option(f"{flag}/--no-{flag[2:]}", default=True, help=text)
    return cloup.option(flag, is_flag=True, help=text)


_FIELDS = {field.name: field for field in fields(EngineOptions)}
threads_option: Decorator = engine_setting(_FIELDS["threads"])


def engine_options(engine: Decorator = engine_option) -> Decorator:
    """The engine, its device, and its options as the argument `options`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def with_options(**given: Any) -> Any:
            options = EngineOptions(**{name: given.pop(name) for name in _FIELDS})
            return function(options=options, **given)

        settings = map(engine_setting, _FIELDS.values())
        return option_group("Engine", engine, device_option, *settings)(with_options)

    return decorate
