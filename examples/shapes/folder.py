"""Our pictures as a folder with captions: `python -m examples.shapes.folder -o pictures`."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
from PIL import Image

from examples.shapes.pictures import class_names, draw


def write_folder(
    out: Path, count: int, *, seed: int = 0, place: str | None = None, classes: bool = False
) -> None:
    """Write `count` PNG files and `metadata.jsonl`, whose captions are sentences or class names."""
    out.mkdir(parents=True)
    pictures = draw(count, np.random.default_rng(seed), place=place)
    names = class_names()
    captions = [names[i] for i in pictures.labels()] if classes else pictures.captions()
    rows = []
    for number, (pixels, caption) in enumerate(zip(pictures.pixels, captions, strict=True)):
        name = f"{number:06d}.png"
        Image.fromarray(pixels).save(out / name)
        rows.append(json.dumps({"file_name": name, "text": caption}) + "\n")
    (out / "metadata.jsonl").write_text("".join(rows))


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
@click.option("--count", default=8192, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--for", "name", default="shapes-sd", show_default=True, help="Or shapes-dit.")
def main(out: Path, count: int, seed: int, name: str) -> None:
    """Draw pictures to train a pipeline of this folder on."""
    is_dit = name == "shapes-dit"
    write_folder(out, count, seed=seed, place="centred" if is_dit else None, classes=is_dit)


if __name__ == "__main__":
    main()
