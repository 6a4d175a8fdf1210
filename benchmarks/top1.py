"""Which pictures of the emoji pipeline the judge reads right: `python -m benchmarks.top1 SUBNET...`.

The full sampler and each SubNet are exported and run on an engine. Each held-out caption has noise of its own, the
same for all samplers. Whether two samplers differ is decided by the pictures that only one of them gets right.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from benchmarks.record import portable, write
from benchmarks.trained import EMOJI_SD3
from engines.base import make_engine
from engines.runner import Runner
from examples.emoji.retrieval import retrieve
from exporter.exporting import export
from search.core.subnet import SubNet
from search.core.table import keep_of
from search.frontier.judge import Judge
from search.methods.options import Options
from search.methods.whole import full

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SEED = 1000
"""Of the first caption's noise; each further caption adds one."""


def right(subnet: SubNet, texts: Sequence[str], engine: str) -> NDArray[np.bool_]:
    """Per caption, whether the judge takes the picture for the emoji that it names, of all emoji."""
    judge = Judge(EMOJI_SD3.judge)
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(EMOJI_SD3.path, subnet, Path(folder) / "bundle")
        runner = Runner(bundle, make_engine(engine, "cpu"))
        pictures = [runner.run(text, seed=SEED + n).images for n, text in enumerate(texts)]
    read = [retrieve(judge, made, [text]).top1 for made, text in zip(pictures, texts, strict=True)]
    found: NDArray[np.bool_] = np.array(read) == 1
    return found


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--engine", default="openvino", help="To run them on.")
@click.option("--count", default=512, help="Held-out captions.")
@click.option("--as", "suffix", default="", help="Part of the result's name.")
def main(files: tuple[Path, ...], engine: str, count: int, suffix: str) -> None:
    """Judge SubNets of emoji-sd3 and write results/top1-emoji-sd3SUFFIX.json."""
    assert EMOJI_SD3.held_out is not None
    texts = EMOJI_SD3.held_out.read_text().splitlines()[:count]
    whole = full(EMOJI_SD3.open(), Options(steps=EMOJI_SD3.steps, guidance=EMOJI_SD3.guidance))
    own = right(whole, texts, engine)
    rows: dict[str, Any] = {"full": {"keep": 1.0, "top1": float(own.mean())}}
    for file in files:
        subnet = SubNet.load(file)
        found = right(subnet, texts, engine)
        row = {
            "keep": keep_of(subnet),
            "steps": subnet.steps,
            "top1": float(found.mean()),
            "only_full": int((own & ~found).sum()),
            "only_subnet": int((found & ~own).sum()),
        }
        rows[portable(str(file))] = row
        click.echo(f"{file.name}: {row}, full {own.mean():.4f}")
    click.echo(
        write(
            f"top1-emoji-sd3{suffix}", {"engine": engine, "captions": len(texts), "subnets": rows}
        )
    )


if __name__ == "__main__":
    main()
