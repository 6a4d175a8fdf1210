"""`stepcarve export-scheduler`: a SubNet's sampler for diffusers and other tools."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import cloup

from exporter.errors import ExportError
from exporter.formats import DIFFUSERS, FORMATS
from search.commands import screen, shared
from search.commands.values import PATH, PipelineDirectory

if TYPE_CHECKING:
    from pathlib import Path

    from search.core.subnet import SubNet
    from search.model.pipeline import Pipeline


@shared.command("export-scheduler")
@shared.subnet_argument
@shared.option_group(
    "Sampler",
    cloup.option(
        "--format",
        "format_name",
        type=click.Choice(FORMATS),
        default=DIFFUSERS,
        help="Write a diffusers scheduler that does all that the SubNet's sampler does (diffusers), or only "
        "the times of its calls: for the argument timesteps or sigmas of a diffusers pipeline, for the "
        "ManualSigmas node of ComfyUI (comfyui), or for --sigmas of stable-diffusion.cpp (sd-cpp).",
    ),
    cloup.option(
        "--pipeline",
        type=PipelineDirectory(),
        help="The pipeline that the SubNet was made for; needed to write the scheduler of a SubNet without a "
        "fitted sampler, or sigmas that depend on the size of the picture.",
    ),
    cloup.option(
        "--grid-only",
        is_flag=True,
        help="Write the times of a fitted sampler without its coefficients.",
    ),
)
@shared.output_options(
    cloup.option(
        "-o",
        "--out",
        type=PATH,
        required=True,
        help="Write to this directory (diffusers) or file (all other formats).",
    )
)
def command(
    subnet: Path,
    out: Path,
    format_name: str,
    pipeline: Path | None,
    grid_only: bool,
    as_json: bool,
) -> None:
    """Export a SubNet's sampler, for use without stepcarve.

    Nothing is compiled. A sampler decides when the denoiser is called, not which blocks run: every call
    computes all of them.
    """
    screen.quiet_libraries()
    from exporter.scheduler import not_included, predicting_steps
    from search.core.subnet import SubNet
    from search.model.opening import open_for

    loaded = SubNet.load(subnet)
    _require_used(loaded, format_name, grid_only=grid_only)
    with screen.status() as report:
        report(f"export: {format_name}")
        opened = None if pipeline is None else open_for(loaded, pipeline, weights=False)
        if format_name == DIFFUSERS:
            _write_scheduler(loaded, opened, out)
        else:
            _write_list(loaded, format_name, opened, out)
    steps = predicting_steps(loaded)
    found = {
        "out": str(out),
        "format": format_name,
        "calls": len(steps),
        "full_calls": loaded.full_calls,
        "timesteps": [loaded.timesteps[step] for step in steps],
        "guidance": None if loaded.fitted is None else loaded.guidance,
        "guidance_range": loaded.guidance_range,
        "not_included": not_included(loaded),
    }
    click.echo(json.dumps(found) if as_json else _text(loaded, found))


def _require_used(subnet: SubNet, format_name: str, *, grid_only: bool) -> None:
    """Refuse to drop coefficients silently, and an option that does nothing."""
    drops = subnet.fitted is not None and format_name != DIFFUSERS
    if drops and not grid_only:
        msg = (
            f"this SubNet has a fitted sampler, whose coefficients the format {format_name!r} cannot "
            f"hold; use --format {DIFFUSERS}, or --grid-only to export its times alone"
        )
        raise ExportError(msg)
    if grid_only and not drops:
        msg = (
            "--grid-only is for lists of a fitted sampler, and there are no coefficients to leave out "
            "here; leave the option out"
        )
        raise ExportError(msg)


def _write_scheduler(subnet: SubNet, opened: Pipeline | None, out: Path) -> None:
    """The SubNet's own rows, or those of the scheduler that it is bound to."""
    from exporter.scheduler import reduced_sampler, write_scheduler
    from search.model.bound_scheduler import fitted_scheduler

    if subnet.fitted is not None:
        table = subnet.fitted.table
    elif opened is not None:
        binding = subnet.binding
        table = opened.sampler(binding.grid, opened.size(binding.noise_shape))
    else:
        msg = (
            f"this SubNet has no fitted sampler, and the coefficients of {subnet.binding.scheduler} depend on "
            "its pipeline; give the pipeline with --pipeline"
        )
        raise ExportError(msg)
    write_scheduler(fitted_scheduler(subnet, reduced_sampler(subnet, table)), out)


def _write_list(subnet: SubNet, format_name: str, opened: Pipeline | None, out: Path) -> None:
    from exporter.grids import grid_text
    from search.core.files import write_atomically

    write_atomically(out, grid_text(subnet, format_name, opened))


def _text(subnet: SubNet, found: dict[str, Any]) -> str:
    """What was written and how it is used, for people."""
    calls, is_fitted = found["calls"], found["guidance"] is not None
    lines = [f"{found['out']}: {calls} calls instead of {found['full_calls']}"]
    if found["format"] == DIFFUSERS:
        scale = f", guidance_scale={found['guidance']:g}" if is_fitted else ""
        lines += [
            f'  pipe.scheduler = FittedScheduler.from_pretrained("{found["out"]}")',
            f"  pipe(..., num_inference_steps={calls}{scale})",
        ]
        low, high = found["guidance_range"] or (0.0, 0.0)
        if low < high:
            lines.append(
                f"  another scale from {low:g} to {high:g}: "
                f'FittedScheduler.from_pretrained("{found["out"]}", guidance_scale=...)'
            )
    elif is_fitted:
        lines.append("not included: the fitted coefficients; the tool's own sampler steps between")
    else:
        lines.append(f"not included: how {subnet.binding.scheduler} steps; choose it there")
    if found["not_included"]:
        lines.append(f"not included: {found['not_included']}")
    return "\n".join(lines)
