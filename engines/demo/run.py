"""The whole path on a shipped pipeline: search, export, run, verify, and a table of the gains."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from engines.base import Engine, make_engine
from engines.comparison import draw_comparison
from engines.demo.example import EXAMPLES, PROVED, Example
from engines.demo.page import page_of
from engines.demo.record import Demo, DemoRow
from engines.errors import EngineError
from engines.machine import describe
from engines.parity import Parity, psnr, verify
from engines.pictures import save_sheet
from engines.report import PACKAGES, write_report
from engines.runner import Runner
from exporter.exporting import export
from exporter.picture import save_figure
from search.core.files import require_free, write_atomically
from search.core.summary import summarise
from search.core.versions import environment
from search.frontier.judge import Judge
from search.model.opening import open_asked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from exporter.bundle import Bundle


def run_demo(
    out: Path,
    report: Callable[[str], None],
    *,
    example: Example = EXAMPLES[0],
    pictures: int | None = None,
) -> Demo:
    """Run everything and write it to `out`, which must not exist.

    Args:
        out: the directory to make.
        report: called with a short progress message.
        example: which of the shipped pipelines.
        pictures: how many prompts; None takes the example's number.
    """
    if not example.pipeline.is_dir():
        msg = (
            f"the shipped pipeline {str(example.pipeline)!r} is not here; clone the repository and install "
            "it from there with make setup"
        )
        raise EngineError(msg)
    require_free(out)
    prompts = example.prompts()[: pictures or example.pictures]
    bundles = _bundles(example, out, report)
    engine = make_engine("onnxruntime", "cpu")
    rows, shown = _compared(example, bundles, engine, prompts, out, report)
    sheet = out / "compared.png"
    save_figure(draw_comparison(shown, example.gain), sheet)
    parity, proof = _prove(bundles, engine, example.pipeline, prompts[0], out, report)
    proved = [contender.file for contender in example.contenders].index(PROVED)
    demo = Demo(example.title, rows, proved, parity, out / "index.html")
    here = {"machine": describe("cpu"), **environment(PACKAGES)}
    record = {
        "example": example.name,
        "rows": [asdict(row) for row in rows],
        "parity": parity.to_json(),
        "environment": here,
    }
    write_atomically(out / "demo.json", json.dumps(record, indent=1) + "\n")
    text = page_of(demo, sheet.read_bytes(), proof.relative_to(out).as_posix(), here)
    write_atomically(demo.page, text)
    return demo


def _bundles(example: Example, out: Path, report: Callable[[str], None]) -> list[Bundle]:
    opened = open_asked(example.pipeline, scheduler=None, call=example.call)
    bundles = []
    for contender in example.contenders:
        report(f"{contender.name}: search and export")
        subnet = contender.make(opened, example)
        bundles.append(export(example.pipeline, subnet, out / contender.file))
    return bundles


def _compared(
    example: Example,
    bundles: Sequence[Bundle],
    engine: Engine,
    prompts: Sequence[str],
    out: Path,
    report: Callable[[str], None],
) -> tuple[tuple[DemoRow, ...], dict[str, NDArray[np.uint8]]]:
    """A row per bundle, and its pictures."""
    judge = Judge(example.folder / "judge.onnx")
    rows: list[DemoRow] = []
    shown: dict[str, NDArray[np.uint8]] = {}
    for contender, bundle in zip(example.contenders, bundles, strict=True):
        images, seconds = _sample(contender.name, Runner(bundle, engine), prompts, report)
        save_sheet(images, out / f"{contender.file}.png")
        shown[contender.name] = images
        rows.append(
            DemoRow(
                name=contender.name,
                calls=len(bundle.calls),
                macs=summarise(bundle.subnet)["macs_kept"],
                seconds=seconds,
                psnr=_closeness(images, shown[example.contenders[0].name]),
                accuracy=judge.accuracy(judge.read(images), prompts),
            )
        )
    return tuple(rows), shown


def _prove(
    bundles: Sequence[Bundle],
    engine: Engine,
    pipeline: Path,
    prompt: str,
    out: Path,
    report: Callable[[str], None],
) -> tuple[Parity, Path]:
    """Parity of `PROVED`, and its report."""
    proved = next(bundle for bundle in bundles if bundle.path.name == PROVED)
    report(f"verify {PROVED} against PyTorch")
    parity, shown = verify(proved, [engine], pipeline, prompt=prompt)
    return parity, write_report(out / "report", proved, parity, shown)


def _closeness(images: NDArray[np.uint8], full: NDArray[np.uint8]) -> float | None:
    """Mean PSNR in dB; None for the full sampler itself."""
    if images is full:
        return None
    return float(np.mean([psnr(a, b) for a, b in zip(images, full, strict=True)]))


def _sample(
    name: str, runner: Runner, prompts: Sequence[str], report: Callable[[str], None]
) -> tuple[NDArray[np.uint8], float]:
    """One picture per prompt, the prompt's number as its seed, and the median seconds of the loop."""
    images, seconds = [], []
    for number, prompt in enumerate(prompts):
        report(f"{name}: picture {number + 1} of {len(prompts)}")
        result = runner.run(prompt, seed=number)
        images.append(result.images[0])
        seconds.append(result.seconds["loop"])
    return np.stack(images), float(np.median(seconds))
