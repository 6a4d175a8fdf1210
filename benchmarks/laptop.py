"""Layers left out by our choice, by other criteria and by hand: `python -m benchmarks.laptop shapes-sd`."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from benchmarks.record import RESULTS, write
from benchmarks.trained import trained_named
from search.core.blocks import skipped
from search.core.files import write_atomically
from search.core.subnet import Granularity
from search.laptop import by_hand
from search.laptop.additivity import draw
from search.laptop.layers import layers_of, params_of
from search.laptop.loss import OutputLoss
from search.laptop.recipe import remove_layers
from search.laptop.settings import Criterion, LaptopSettings
from search.laptop.tuples import draw_tuples
from search.methods.options import Options
from search.methods.prompts import default_prompts
from search.methods.whole import full

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.laptop.recipe import Removal
    from search.model.pipeline import Pipeline

KEEPS = {"shapes-sd": (0.7, 0.5), "shapes-dit": (0.7025, 0.504, 0.7, 0.5)}
"""The first two of shapes-dit are what three and five of its ten blocks leave."""
HELD_OUT_SEED = 100
VARIANTS = {
    "ours": LaptopSettings(criterion=Criterion.PICTURE, rounds=2),
    "ours, by the output loss": LaptopSettings(criterion=Criterion.OUTPUT, rounds=2),
    **{str(c): LaptopSettings(criterion=c, rounds=0) for c in Criterion},
}
"""What is compared: our recipe by either loss, and every criterion's one-shot scores (`output`: the paper's)."""


@click.command()
@click.argument("name", type=click.Choice(list(KEEPS)))
@click.option("--tuples", default=32, show_default=True)
def main(name: str, tuples: int) -> None:
    """Output loss on held-out tuples at equal parameters, before any retraining."""
    console = Console(stderr=True)
    trained = trained_named(name)
    pipeline = trained.open()
    options = Options(granularity=Granularity.LAYER, guidance=trained.guidance, steps=trained.steps)
    whole = full(pipeline, options)
    keeps = KEEPS[name]
    by_hands = _by_hand(whole, keeps)
    with tempfile.TemporaryDirectory() as folder:
        found = {
            variant: _timed(pipeline, whole, keeps, settings, tuples, Path(folder), console)
            for variant, settings in VARIANTS.items()
        }
    subnets = {
        **{
            f"{variant} {keep:.4f}": subnet
            for variant, (removal, _) in found.items()
            for keep, subnet in zip(keeps, removal.subnets, strict=True)
        },
        **{one.method: one for one in by_hands},
    }
    losses = _held_out(pipeline, whole, list(subnets.values()), tuples)
    rows = [
        {"what": what, "params_kept": params_of(subnet), "loss": loss, "removed": skipped(subnet)}
        for (what, subnet), loss in zip(subnets.items(), losses, strict=True)
    ]
    for row in rows:
        console.print(f"{row['what']:32} {row['params_kept']:.4f} {row['loss']:.3g}")
    ours, _ = found["ours"]
    write_atomically(RESULTS / f"laptop-{name}.png", draw(ours.additivity))
    record = {
        "keeps": keeps,
        "settings": {variant: asdict(settings) for variant, settings in VARIANTS.items()},
        "seconds": {variant: round(seconds) for variant, (_, seconds) in found.items()},
        "rows": rows,
        "additivity": {v: removal.additivity.to_json() for v, (removal, _) in found.items()},
    }
    click.echo(write(f"laptop-{name}", record))


def _by_hand(whole: SubNet, keeps: tuple[float, ...]) -> list[SubNet]:
    if any(block.startswith("down_blocks") for block in whole.topology.blocks):
        fixed = [by_hand.bk_sdm(whole, variant) for variant in by_hand.VARIANTS]
        return [*fixed, *(by_hand.bk_sdm_order(whole, keep, params_of) for keep in keeps)]
    return [by_hand.every_second(whole, keep, params_of) for keep in keeps]


def _timed(
    pipeline: Pipeline,
    whole: SubNet,
    keeps: tuple[float, ...],
    settings: LaptopSettings,
    tuples: int,
    folder: Path,
    console: Console,
) -> tuple[Removal, float]:
    console.log(f"{settings.criterion}, {settings.rounds} rounds")
    began = time.perf_counter()
    removal = remove_layers(
        pipeline,
        whole,
        keeps,
        prompts=default_prompts(pipeline),
        settings=replace(settings, tuples=tuples),
        cost=params_of,
        folder=folder,
        resume=True,
    )
    return removal, time.perf_counter() - began


def _held_out(pipeline: Pipeline, whole: SubNet, subnets: list[SubNet], count: int) -> list[float]:
    """The output loss of each on tuples that no search has seen."""
    layers = layers_of(whole)
    prompts = default_prompts(pipeline)[::-1]
    held_out = draw_tuples(pipeline, whole, prompts, count=count, seed=HELD_OUT_SEED)
    losses = OutputLoss(pipeline, layers, held_out)
    removed = [{layers.number[name] for name in skipped(subnet)} for subnet in subnets]
    return [
        float(x)
        for start in range(0, len(removed), 16)
        for x in losses(removed[start : start + 16]).mean(dim=1)
    ]


if __name__ == "__main__":
    main()
