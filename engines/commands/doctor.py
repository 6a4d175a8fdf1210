"""`stepcarve doctor`: what is installed and works, and whether a pipeline can be compiled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import cloup

from search.commands import screen, shared
from search.commands.values import PipelineDirectory

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.diagnosis import Diagnosis, Parts, Step

_FAILED = 1


@shared.command("doctor")
@cloup.argument("pipeline", type=PipelineDirectory(), required=False)
@shared.option_group(
    "Pipeline",
    shared.height_option,
    shared.width_option,
    shared.frames_option,
    shared.call_option,
)
@shared.output_options()
def command(
    pipeline: Path | None,
    height: int | None,
    width: int | None,
    frames: int | None,
    call: tuple[tuple[str, Any], ...],
    as_json: bool,
) -> None:
    """Show which engines work here, and how to install others.

    With a PIPELINE, show whether it can be compiled, its blocks, its cost and its memory, without reading
    its weights. The exit code is 1 if it cannot be compiled.
    """
    if pipeline is None:
        names = ("height", "width", "frames", "call")
        shared.refuse_unused(shared.given_options(), dict.fromkeys(names, "with a PIPELINE"))
        _examine(as_json=as_json)
        return
    screen.quiet_libraries()
    from exporter.diagnosis import diagnose
    from search.methods.options import Options

    size = Options(height=height, width=width, frames=frames).size
    with screen.status() as report:
        report("look at the pipeline")
        found = diagnose(pipeline, size, dict(call))
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        click.echo("\n".join(_lines(found)))
    if not found.compiles:
        click.get_current_context().exit(_FAILED)


def _examine(*, as_json: bool) -> None:
    from engines.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in findings]))
        return
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = "ok" if finding.works else "--"
        click.echo(f"{mark}  {finding.name:<{width}}  {finding.detail}")


def _lines(found: Diagnosis) -> list[str]:
    """A diagnosis for people: a word and what is known, one a line."""
    rows = [("pipeline", found.pipeline)]
    if found.parts is not None:
        rows += _of_parts(found.parts)
    if found.step is not None:
        rows += _of_step(found.step)
    if found.parts is not None and found.step is not None:
        rows += _of_memory(found.parts, found.step)
    if found.without_weights:
        rows.append(("weights", f"missing for {', '.join(found.without_weights)}"))
    rows.append(("compiles", "yes" if found.compiles else f"no: {found.obstacle}"))
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def _of_parts(parts: Parts) -> list[tuple[str, str]]:
    blocks = [
        (f"{granularity} blocks", f"{each.count}: {', '.join(each.names)}")
        for granularity, each in parts.blocks.items()
    ]
    return [
        ("denoiser", f"{parts.denoiser}, {_short(parts.parameters)} parameters"),
        ("other models", f"{_short(parts.parameters_around)} parameters"),
        ("sampler", f"{parts.scheduler}, {parts.steps} steps, guidance {parts.guidance:g}"),
        *blocks,
    ]


def _of_step(step: Step) -> list[tuple[str, str]]:
    calls = ", ".join(
        f"{stream or 'one call'} of {rows} {'row' if rows == 1 else 'rows'}"
        for stream, rows in zip(step.streams, step.rows, strict=True)
    )
    counts = " or ".join(map(str, sorted({len(made) for made in step.calls})))
    size = " x ".join(map(str, step.picture[:2]))
    frames = "".join(f", {count} frames" for count in step.picture[2:])
    return [
        ("size", f"{size}{frames}"),
        ("calls per step", f"{counts} ({calls})"),
        ("MACs per step", _short(step.macs)),
        ("prompt inputs", ", ".join(step.prompt_inputs)),
    ]


def _of_memory(parts: Parts, step: Step) -> list[tuple[str, str]]:
    weights = step.search_memory - step.libraries - step.activations
    export = (
        f"about {_bytes(parts.export.memory)} of memory and {_bytes(parts.export.disk)} of disk"
    )
    search = (
        f"about {_bytes(step.search_memory)} of memory: {_bytes(weights)} weights + "
        f"{_bytes(step.activations)} activations of a step for one picture, every block's output kept + "
        f"{_bytes(step.libraries)} libraries; gradients (dip-go, distill) take more"
    )
    return [("export in float32", export), ("search in float32", search)]


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _short(count: int) -> str:
    """A large number with a letter for its thousands: `860 M`."""
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {letter}"
    return str(count)
