"""Judge what was trained, and draw it: `python -m examples.emoji.evaluate`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.utils import logging
from PIL import Image, ImageDraw, ImageFont

from engines.pictures import save_sheet
from examples.emoji.artwork import DEFAULT_PACKAGES, SIZE, read_artwork
from examples.emoji.models import GUIDANCE
from examples.emoji.pictures import captions, compose, held_out_items
from examples.emoji.retrieval import retrieve
from examples.losses import draw_losses
from search.frontier.judge import Judge, frechet_distance

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).parent
BATCH = 64
TEACHER = "emoji-sd3"
FINE = 100
"""Steps of the teacher's samples that closeness is measured to."""


@dataclass(frozen=True)
class Sampler:
    """How a pipeline is sampled.

    Attributes:
        calls: numbers of calls to judge, the full sampler's first.
        guidance: the scale.
    """

    calls: tuple[int, ...]
    guidance: float


SAMPLERS = {
    TEACHER: Sampler((28, 10, 6, 4), GUIDANCE),
    "emoji-4-steps": Sampler((4, 3, 2), 1.0),
}


def sample_pictures(pipe: Any, texts: list[str], steps: int, guidance: float) -> NDArray[np.uint8]:
    """Samples `[N, 64, 64, 3]` by diffusers' own pipeline; the noise of each caption is its own."""
    images = []
    for start in range(0, len(texts), BATCH):
        chosen = texts[start : start + BATCH]
        generators = [torch.Generator().manual_seed(start + n) for n in range(len(chosen))]
        found = pipe(
            chosen,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            height=SIZE,
            width=SIZE,
            max_sequence_length=1,
            output_type="np",
        ).images
        images.append(np.rint(found * 255).astype(np.uint8))
    return np.concatenate(images)


def open_pipe(folder: Path) -> Any:
    """The pipeline in `folder`, silent."""
    logging.set_verbosity_error()  # it warns of the empty T5's text, which is cut
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def closeness(images: NDArray[np.uint8], fine: NDArray[np.uint8]) -> dict[str, float]:
    """Relative L2 distance and PSNR in dB to the fine samples, over all pictures."""
    error = images.astype(np.float64) - fine
    mean_square = float((error**2).mean())
    return {
        "relative L2": float(np.linalg.norm(error) / np.linalg.norm(fine.astype(np.float64))),
        "PSNR": float(10 * np.log10(255**2 / mean_square)),
    }


def draw_held_out(packages: Path = DEFAULT_PACKAGES) -> tuple[NDArray[np.uint8], list[str]]:
    """The real pictures that no training showed, `[N, 64, 64, 3]`, and their captions."""
    artwork = read_artwork(packages)
    items = held_out_items(len(artwork.names))
    return compose(artwork, items, np.random.default_rng(4242)), captions(artwork, items)


def curve(
    pipe: Any,
    sampler: Sampler,
    *,
    judge: Judge,
    texts: list[str],
    real: NDArray[np.float32],
    fine: NDArray[np.uint8],
) -> dict[str, Any]:
    """Figures per number of calls.

    Args:
        pipe: to sample from.
        sampler: how.
        judge: reads the samples.
        texts: captions.
        real: features `[N, F]` of real pictures.
        fine: fine samples `[M, 64, 64, 3]` of the first M captions.
    """
    figures = {}
    for steps in sampler.calls:
        images = sample_pictures(pipe, texts, steps, sampler.guidance)
        figures[f"{steps} calls"] = {
            **asdict(retrieve(judge, images, texts)),
            "frechet": frechet_distance(real, judge.read(images).features),
            **closeness(images[: len(fine)], fine),
        }
        click.echo(f"{steps} calls: {figures[f'{steps} calls']}")
    return figures


def draw_sheet(images: NDArray[np.uint8], texts: list[str], path: Path) -> None:
    """An 8x8 sheet of pictures with their captions."""
    edge, below, columns = 2 * SIZE, 26, 8
    rows = -(-len(texts) // columns)
    sheet = Image.new("RGB", (columns * edge, rows * (edge + below)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    for number, (pixels, text) in enumerate(zip(images, texts, strict=True)):
        left, top = number % columns * edge, number // columns * (edge + below)
        sheet.paste(
            Image.fromarray(pixels).resize((edge, edge), Image.Resampling.BICUBIC), (left, top)
        )
        pen.text((left + 2, top + edge + 1), _wrapped(text, 24), "black", font, spacing=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(256).save(path, optimize=True)


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) < width:
            lines[-1] += f" {word}" if lines[-1] else word
        elif len(lines) < 2:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1][: width - 4]} ..."
            break
    return "\n".join(lines)


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), default=HERE, show_default=True)
@click.option("--name", type=click.Choice(list(SAMPLERS)), default=TEACHER, show_default=True)
@click.option(
    "--packages", type=click.Path(path_type=Path), default=DEFAULT_PACKAGES, show_default=True
)
@click.option("--count", default=512, show_default=True, help="Captions.")
@click.option("--compared", default=64, show_default=True, help="Captions sampled finely.")
def main(out: Path, name: str, packages: Path, count: int, compared: int) -> None:
    """Judge the pipeline NAME in OUT and write figures, samples and loss curves to OUT/training."""
    judge, pipe, sampler = Judge(out / "judge.onnx"), open_pipe(out / name), SAMPLERS[name]
    texts = (out / "prompts.txt").read_text().splitlines()[:count]
    real, real_texts = draw_held_out(packages)
    fine = sample_pictures(open_pipe(out / TEACHER), texts[:compared], FINE, GUIDANCE)
    results = {
        "captions": count,
        "guidance": sampler.guidance,
        "fine": {"of": TEACHER, "calls": FINE, "captions": compared},
        "judge on real held-out pictures": asdict(retrieve(judge, real, real_texts)),
        **curve(pipe, sampler, judge=judge, texts=texts, real=judge.read(real).features, fine=fine),
    }
    folder = out / "training"
    images = sample_pictures(pipe, texts[:64], sampler.calls[0], sampler.guidance)
    draw_sheet(images, texts[:64], folder / f"samples-{name}.png")
    shown = [real_texts.index(text) for text in texts[:64]]
    save_sheet(real[shown], folder / "real-held-out.png")
    draw_losses(folder)
    (folder / f"figures-{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    click.echo(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
