"""Shared options and arguments, one decorator each, and the registration of a command."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
import cloup

from search.commands.values import (
    ASSIGNMENT,
    AT_LEAST_0,
    AT_LEAST_1,
    NUMBER,
    PATH,
    PROMPTS_FILE,
    OneOf,
    PipelineDirectory,
    SubNetFile,
)
from search.core.errors import SearchError
from search.core.precision import denoiser_precisions
from search.runs.parallel import Where

if TYPE_CHECKING:
    from collections.abc import Iterable

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

DEBUG = "stepcarve.debug"
"""In a context's `meta`: show tracebacks."""


def command(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], cloup.Command]:
    """Make a function a command; its options show their defaults."""
    return cloup.command(name, context_settings={"show_default": True}, **attributes)


def option_group(title: str, *options: Decorator) -> Decorator:
    """Options under one heading in the help."""
    grouped: Decorator = cloup.option_group(title, *options)
    return grouped


def _show_tracebacks(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.meta[DEBUG] = value


def output_options(*options: Decorator) -> Decorator:
    """The output options; every command has `--json` and `--debug`."""
    return option_group(
        "Output",
        *options,
        cloup.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        cloup.option(
            "--debug",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_tracebacks,
            help="Show the traceback when something goes wrong.",
        ),
    )


def used_by(text: str, users: Iterable[str]) -> str:
    """The help of an option that only some methods or engines use: they stand before its default."""
    sentence, default, value = text.partition("  [default")
    return f"{sentence}  [used by: {', '.join(users)}]{default}{value}"


pipeline_argument: Decorator = cloup.argument("pipeline", type=PipelineDirectory())
subnet_argument: Decorator = cloup.argument("subnet", type=SubNetFile())


def subnet_out_option() -> Decorator:
    """Where a SubNet is written."""
    return cloup.option(
        "-o", "--out", type=PATH, required=True, help="Write the SubNet to this JSON file."
    )


steps_option: Decorator = cloup.option(
    "--steps",
    type=AT_LEAST_1,
    help="Number of inference steps of the full sampler.  [default: the pipeline's own]",
)
scheduler_option: Decorator = cloup.option(
    "--scheduler",
    help="Use this scheduler: a diffusers class name, or a short name such as ddim, euler or "
    "dpmpp-2m.  [default: the pipeline's own]",
)
scheduler_options_option: Decorator = cloup.option(
    "--scheduler-option",
    "scheduler_options",
    type=ASSIGNMENT,
    multiple=True,
    help="Override one setting of the scheduler, such as clip_sample=false; may be repeated.",
)
call_option: Decorator = cloup.option(
    "--call",
    "call",
    type=ASSIGNMENT,
    multiple=True,
    help="Pass this argument to the pipeline's call, such as max_sequence_length=128; may be "
    "repeated.",
)
split_streams_option: Decorator = cloup.option(
    "--split-streams",
    is_flag=True,
    help="Call the denoiser once for the prompt and once for the negative prompt, where the pipeline makes "
    "one call for both; each has blocks of its own then.",
)
guidance_option: Decorator = cloup.option(
    "--guidance",
    type=NUMBER,
    help="Guidance scale; 1 switches guidance off.  [default: the pipeline's own]",
)
height_option: Decorator = cloup.option(
    "--height", type=AT_LEAST_1, help="Height of the picture in pixels.  [default: the pipeline's]"
)
width_option: Decorator = cloup.option(
    "--width", type=AT_LEAST_1, help="Width of the picture in pixels.  [default: the pipeline's]"
)
frames_option: Decorator = cloup.option(
    "--frames",
    type=AT_LEAST_1,
    help="Number of frames of a video; needs --height and --width.  [default: the pipeline's]",
)
device_option: Decorator = cloup.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    help="Compute on this device; the command stops if it is missing.",
)
dtype_option: Decorator = cloup.option(
    "--dtype",
    type=click.Choice([each.name for each in denoiser_precisions()]),
    default="float32",
    help="Hold the denoiser's weights in this floating-point type and compute in it; the sampler and all "
    "losses stay float32.",
)
seed_option: Decorator = cloup.option(
    "--seed", type=AT_LEAST_0, default=0, help="Seed for noise and random choices."
)
prompts_option: Decorator = cloup.option(
    "--prompts",
    type=PROMPTS_FILE,
    default=(),
    show_default=False,
    help="Use the prompts in this text file, one per line.  [default: the pipeline's "
    "prompts.txt, its classes, or built-in captions]",
)
jobs_option: Decorator = cloup.option(
    "--jobs",
    type=AT_LEAST_1,
    default=1,
    help="Run this many processes at once; they share the machine's cores.",
)
parallel_option: Decorator = cloup.option(
    "--parallel",
    type=OneOf(Where),
    default=Where.LOCAL.value,
    help="Run the jobs on this machine, or on a Ray or Dask cluster.",
)


def given_options() -> list[str]:
    """Names of the options given on the command line, without dashes."""
    context = click.get_current_context()
    given = click.core.ParameterSource.COMMANDLINE
    return [
        _name(option)
        for option in context.command.params
        if option.name and context.get_parameter_source(option.name) is given
    ]


def _name(option: click.Parameter) -> str:
    """The first long one: of `--fit-sampler/--no-fit-sampler` the affirmative."""
    return next((o for o in option.opts if o.startswith("--")), option.opts[0]).removeprefix("--")


def refuse_unused(given: Iterable[str], unused: dict[str, str]) -> None:
    """Refuse options that were given and have no effect.

    Args:
        given: names of the options on the command line.
        unused: by the names of the options that have no effect now, when they would have one.

    Raises:
        SearchError: one of them was given.
    """
    found = [f"--{name} ({unused[name]})" for name in sorted(set(given) & unused.keys())]
    if found:
        have, them = ("has", "it") if len(found) == 1 else ("have", "them")
        msg = f"{', '.join(found)} {have} no effect here; leave {them} out"
        raise SearchError(msg)
