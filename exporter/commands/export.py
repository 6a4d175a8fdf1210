"""`stepcarve export`: carve a bundle."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import cloup

from search.commands import screen, shared
from search.commands.values import AT_LEAST_1, IP_ADAPTER_FILE, LORA_FILE, PATH, SIZE
from search.core.errors import SearchError
from search.core.precision import denoiser_precisions
from search.core.quantisation import SCHEMES, part_precisions

if TYPE_CHECKING:
    from pathlib import Path

    from search.core.lora import IPAdapter, Lora
    from search.core.quantisation import Quantisation


MIXED = "mixed"
"""As `--precision`: what the plan says, with the layers that it leaves in floating point."""


@shared.command("export")
@shared.pipeline_argument
@shared.subnet_argument
@shared.option_group(
    "Graphs",
    cloup.option(
        "--dtype",
        type=click.Choice([each.name for each in denoiser_precisions()]),
        default="float32",
        help="Store the denoiser in this floating-point type and compute in it.",
    ),
    cloup.option(
        "--text-dtype",
        type=click.Choice(part_precisions()),
        default="float32",
        help=(
            "Store and compute the text encoders in this type, or quantise their weights. A "
            "part whose results are then too far from those in float32 stays in float32, with a "
            "message."
        ),
    ),
    cloup.option(
        "--vae-dtype",
        type=click.Choice(part_precisions()),
        default="float32",
        help="The same for the autoencoder.",
    ),
    cloup.option(
        "--precision",
        type=click.Choice([*(each.name for each in SCHEMES), MIXED]),
        help="Quantise the denoiser's layers to this precision, or as the plan says (mixed); all but those "
        "that end in -weights need a plan.  [default: the scheme of --quantisation, else --dtype]",
    ),
    cloup.option(
        "--quantisation",
        type=PATH,
        help="Take the plan that stepcarve quantise wrote to this file.  [default: the one beside SUBNET, if "
        "--precision needs one]",
    ),
    cloup.option(
        "--size",
        "sizes",
        type=SIZE,
        metavar="HEIGHTxWIDTH",
        multiple=True,
        help="Make variants for this size in pixels, such as 512x768; may be repeated.  [default: the "
        "SubNet's]",
    ),
    cloup.option(
        "--batch",
        "batches",
        type=AT_LEAST_1,
        multiple=True,
        default=(1,),
        show_default=False,
        help="Make variants for this many pictures per prompt; may be repeated.  [default: 1]",
    ),
    cloup.option(
        "--lora",
        "loras",
        type=LORA_FILE,
        multiple=True,
        help="Fuse this LoRA into the weights, multiplied by SCALE; may be repeated.  [default scale: 1]",
    ),
    cloup.option(
        "--lora-live",
        "live_loras",
        type=LORA_FILE,
        multiple=True,
        help="Keep this LoRA apart from the weights, so that run --lora-scale can change its SCALE; may be "
        "repeated.  [default scale: 1]",
    ),
    cloup.option(
        "--ip-adapter",
        "ip_adapters",
        type=IP_ADAPTER_FILE,
        multiple=True,  # so that a second one is refused, not taken instead of the first
        help="Add this IP-Adapter, multiplied by SCALE; run --ip-image gives it a picture.  [default scale: 1]",
    ),
)
@shared.output_options(
    cloup.option(
        "-o", "--out", type=PATH, required=True, help="Write the bundle to this new directory."
    )
)
def command(
    pipeline: Path,
    subnet: Path,
    out: Path,
    dtype: str,
    text_dtype: str,
    vae_dtype: str,
    sizes: tuple[tuple[int, int], ...],
    batches: tuple[int, ...],
    loras: tuple[Lora, ...],
    live_loras: tuple[Lora, ...],
    ip_adapters: tuple[IPAdapter, ...],
    precision: str | None,
    quantisation: Path | None,
    as_json: bool,
) -> None:
    """Carve the step graphs of a SubNet into a bundle.

    The bundle holds a variant for every combination of --size and --batch. All variants share the weights.
    """
    screen.quiet_libraries()
    from exporter.exporting import export
    from search.core.lora import live
    from search.core.subnet import SubNet
    from search.core.summary import summarise

    ip_adapter = _only(ip_adapters)
    with screen.status() as report:
        bundle = export(
            pipeline,
            SubNet.load(subnet),
            out,
            sizes=sizes,
            batches=batches,
            dtype=dtype,
            loras=loras,
            live_loras=live(live_loras),
            ip_adapter=ip_adapter,
            text_dtype=text_dtype,
            vae_dtype=vae_dtype,
            plan=_plan(subnet, precision, quantisation),
            report=report,
            note=lambda text: click.echo(text, err=True),
        )
    size = sum(file.stat().st_size for file in bundle.path.iterdir())
    if as_json:
        summary = summarise(bundle.subnet, bundle.shape.images, dtype)
        variants = [shape.to_json() for shape in bundle.shapes]
        fused = [each.to_json() for each in loras]
        made = {"bundle": str(out), "bytes": size, "variants": variants, "loras": fused}
        made["parts"] = bundle.parts
        made["live_loras"] = [each.to_json() for each in bundle.live_loras]
        made["ip_adapter"] = None if ip_adapter is None else ip_adapter.to_json()
        made |= {"precision": bundle.precision}
        click.echo(json.dumps({**made, **summary}))
    else:
        count, shapes = len(bundle.graphs), ", ".join(map(str, bundle.shapes))
        graphs = "step graph" if count == 1 else "step graphs"
        click.echo(
            f"{out}: {shapes}; {len(bundle.calls)} calls, {count} {graphs}, {size / 1e6:.1f} MB"
        )


def _only(adapters: tuple[IPAdapter, ...]) -> IPAdapter | None:
    """The IP-Adapter, if one is given.

    Raises:
        SearchError: several are.
    """
    if len(adapters) > 1:
        names = ", ".join(repr(each.file.name) for each in adapters)
        msg = f"a bundle has one IP-Adapter, but {names} were given; give --ip-adapter once"
        raise SearchError(msg)
    return adapters[0] if adapters else None


def _plan(subnet: Path, precision: str | None, file: Path | None) -> Quantisation | None:
    """The quantisation that the options ask for.

    Raises:
        SearchError: the plan is missing, or of another scheme.
    """
    from search.core.quantisation import SUFFIX, Quantisation, scheme_named

    if precision is None and file is None:
        return None
    if precision not in (None, MIXED):
        scheme = scheme_named(precision)
        if file is None and not scheme.inputs:
            return Quantisation.of_weights(scheme)
    plan = Quantisation.load(subnet.with_suffix(SUFFIX) if file is None else file)
    if precision not in (None, MIXED, plan.scheme.name):
        msg = f"--precision is {precision}, but the plan is for {plan.scheme.name}; leave one of them out"
        raise SearchError(msg)
    return plan
