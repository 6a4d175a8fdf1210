"""Judge what was trained, and draw it: `python -m examples.shapes.evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch
from diffusers import DDIMScheduler

from engines.pictures import save_sheet
from examples.losses import draw_losses
from examples.shapes.pictures import ATTRIBUTES, Pictures, class_names, draw
from search.frontier.judge import Judge, frechet_distance
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.reference import sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).parent
HELD_OUT_SEED = 4242
STEPS = 50
BATCH = 64
GUIDANCE = {"shapes-sd": (2.0, 4.0, 7.5), "shapes-dit": (1.5, 3.0, 4.0)}
RECOMMENDED = {"shapes-sd": 4.0, "shapes-dit": 1.5}


def judge_real(judge: Judge, pictures: Pictures) -> dict[str, float]:
    """Share of real pictures whose attribute the judge reads correctly."""
    words = judge.read(pictures.pixels).words
    return {
        name: float(
            np.mean([ATTRIBUTES[name][i] == w for i, w in zip(truth, words[name], strict=True)])
        )
        for name, truth in pictures.attributes.items()
    }


def sample_pictures(folder: Path, prompts: list[str], guidance: float) -> NDArray[np.uint8]:
    """50-step DDIM samples `[N, 64, 64, 3]` by diffusers' own pipeline."""
    pipeline = open_pipeline(folder)
    if not isinstance(pipeline.pipe.scheduler, DDIMScheduler):
        msg = f"{str(folder)!r} should come with DDIM"
        raise TypeError(msg)
    generator = torch.Generator().manual_seed(1)
    images = []
    for start in range(0, len(prompts), BATCH):
        request = Request(tuple(prompts[start : start + BATCH]), STEPS, guidance)
        found: Any = sample(pipeline, request, generator=generator).images
        images.append(np.rint(found * 255).astype(np.uint8))
    return np.concatenate(images)


def evaluate(name: str, folder: Path, judge: Judge, count: int) -> dict[str, Any]:
    """Accuracy and Fréchet distance of `count` pictures per guidance scale, and a sheet of them."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    place = "centred" if name == "shapes-dit" else None
    real = judge.read(draw(4096, rng, place=place).pixels).features
    other = judge.read(draw(count, rng, place=place).pixels).features
    held_out = draw(count, rng, place=place)
    names = class_names()
    prompts = held_out.captions() if name == "shapes-sd" else [names[i] for i in held_out.labels()]
    results: dict[str, Any] = {"real pictures": {"frechet": frechet_distance(real, other)}}
    for guidance in GUIDANCE[name]:
        images = sample_pictures(folder / name, prompts, guidance)
        reading = judge.read(images)
        results[f"guidance {guidance:g}"] = {
            "frechet": frechet_distance(real, reading.features),
            **judge.accuracy(reading, prompts),
        }
        if guidance == RECOMMENDED[name]:
            save_sheet(images[:64], folder / "training" / f"samples-{name}.png")
    return results


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), default=HERE, show_default=True)
@click.option("--count", default=256, show_default=True, help="Pictures per guidance scale.")
def main(out: Path, count: int) -> None:
    """Judge both pipelines in OUT and write accuracy, samples and loss curves to OUT/training."""
    judge = Judge(out / "judge.onnx")
    held_out = draw(4096, np.random.default_rng(HELD_OUT_SEED))
    results: dict[str, Any] = {"judge on real pictures": judge_real(judge, held_out)}
    for name in GUIDANCE:
        results[name] = evaluate(name, out, judge, count)
    draw_losses(out / "training")
    text = json.dumps({"pictures": count, "steps": STEPS, **results}, indent=1)
    (out / "training" / "accuracy.json").write_text(text + "\n")
    click.echo(text)


if __name__ == "__main__":
    main()
