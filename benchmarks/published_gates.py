"""DiP-GO's published gates against diffusers: `python -m benchmarks.published_gates`.

A U-Net of the size of Stable Diffusion 1.5 with random weights; the published gates imported, exported
and run on ONNX Runtime; and diffusers' own pipeline in which the reused predictions are held.
"""

from __future__ import annotations

import gc
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import click
import numpy as np
import torch

from benchmarks.full_size import SD15_CHANNELS, SMALL_CHANNELS, sd15
from benchmarks.record import write
from benchmarks.speed import resident_mb
from engines.base import make_engine
from engines.parity import relative_l2
from engines.runner import Runner
from exporter.exporting import export
from search.core.summary import summarise
from search.foreign.gate_file import read_gates
from search.foreign.tables import subnet_from_gates
from search.methods.options import Options
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.reference import sample
from tests import gate_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from search.core.subnet import SubNet

GUIDANCE, PROMPT = 7.5, "a small red circle left on a grey field"
HELD_BLOCK, HELD_AT = "down_blocks.3", 7


@contextmanager
def held(unet: Any, *, hold_block: bool) -> Iterator[None]:
    """While open, `unet` is called at the published steps and repeats itself at the others.

    Args:
        unet: of diffusers.
        hold_block: whether one block repeats its outputs at one step, as was published.
    """
    step, kept = -1, dict[str, Any]()
    original = unet.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal step
        step += 1
        if step in gate_files.PUBLISHED_CALLS:
            kept["prediction"] = original(*args, **kwargs)
        return kept["prediction"]

    def repeat(module: Any, args: Any, output: Any) -> Any:
        del module, args
        if not (hold_block and step == HELD_AT):
            kept["block"] = output
        return kept["block"]

    handle = unet.get_submodule(HELD_BLOCK).register_forward_hook(repeat)
    with mock.patch.object(unet, "forward", forward):
        yield
    handle.remove()


def by_diffusers(path: Path, request: Request) -> dict[str, Any]:
    """Final latents of diffusers' pipeline, with the block held and (to compare) without."""
    opened = open_pipeline(path)
    found: dict[str, Any] = {}
    for name, hold_block in {"published": True, "block computed": False}.items():
        began = time.perf_counter()
        with held(opened.denoiser, hold_block=hold_block):
            found[name] = sample(opened, request).latents[-1].numpy()
        found[f"{name}, seconds"] = time.perf_counter() - began
    return found


def by_engine(
    path: Path, subnet: SubNet, folder: Path, noise: NDArray[np.float32]
) -> dict[str, Any]:
    """Final latents of the bundle, how long export and sampling took, and the memory then held."""
    began = time.perf_counter()
    bundle = export(path, subnet, folder / "bundle")
    exported = time.perf_counter()
    runner = Runner(bundle, make_engine("onnxruntime", "cpu"))
    result = runner.run(PROMPT, latents=noise)
    return {
        "memory_mb": resident_mb(),
        "latents": result.latents,
        "export": exported - began,
        "loop": result.seconds["loop"],
    }


def import_published(path: Path, file: Path, pixels: int) -> SubNet:
    """The published gates in `file` as a SubNet of the pipeline at `path`."""
    gates = read_gates(file)
    options = Options(steps=len(gates), guidance=GUIDANCE, height=pixels, width=pixels)
    return subnet_from_gates(open_pipeline(path, weights=False), gates, options)


@click.command()
@click.option("--latents", "edge", default=32, show_default=True, help="Edge of the latents.")
@click.option(
    "--gates",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The author's file, sd15_gates_0.8.pkl; without it one with the same gates is written.",
)
@click.option("--small", is_flag=True, help="Try it on a small U-Net; nothing is recorded.")
def main(edge: int, gates: Path | None, small: bool) -> None:
    """Compare final latents and write results/published-gates.json."""
    shape = (1, 4, edge, edge)
    noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    pixels = 8 * edge
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "pipeline"
        sd15(path, SMALL_CHANNELS if small else SD15_CHANNELS)
        gc.collect()
        expected = by_diffusers(
            path,
            Request(
                (PROMPT,),
                gate_files.PUBLISHED_STEPS,
                GUIDANCE,
                latents=torch.from_numpy(noise.copy()),
                height=pixels,
                width=pixels,
            ),
        )
        gc.collect()
        file = gates or gate_files.write(gate_files.published(), folder / "gates.pkl")
        subnet = import_published(path, file, pixels)
        found = by_engine(path, subnet, folder, noise)
    summary = summarise(subnet)
    facts = ("steps", "calls", "signatures", "keep", "keep_without_attention", "params")
    result = {
        "latents": shape,
        "guidance": GUIDANCE,
        **{fact: summary[fact] for fact in facts},
        "relative_l2": relative_l2(found["latents"], expected["published"]),
        "relative_l2_if_the_block_ran": relative_l2(found["latents"], expected["block computed"]),
        "seconds": {
            "diffusers, held": round(expected["published, seconds"], 1),
            "onnxruntime": round(found["loop"], 1),
            "export": round(found["export"], 1),
        },
        "memory_mb_without_mapped_weights": round(found["memory_mb"]),
    }
    click.echo(result if small else write("published-gates", result))


if __name__ == "__main__":
    main()
