"""The whole path on a shipped pipeline: search, export, run, verify, and a table of the gains."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from engines.base import Engine, make_engine
from engines.comparison import draw_comparison
from engines.demo.example import EXAMPLES, PROVED, Example
from engines.errors import EngineError
from engines.parity import Parity, psnr, verify
from engines.pictures import save_sheet
from engines.report import write_report
from engines.runner import Runner
from exporter.exporting import export
from exporter.picture import save_figure
from search.core.files import require_free, write_atomically
from search.core.summary import summarise
from search.frontier.judge import Judge
from search.model.pipeline import open_asked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from exporter.bundle import Bundle


@dataclass(frozen=True)
class DemoRow:
    """One line of the table.

    Attributes:
        name: of the method.
        calls: of the denoiser per picture.
        macs: multiply-accumulates per picture and guidance half.
        seconds: of the loop per picture, median.
        psnr: mean over the pictures of the PSNR to the full sampler's, in dB; None for itself.
        accuracy: attribute -> share of pictures that show what their prompt names.
    """

    name: str
    calls: int
    macs: int
    seconds: float
    psnr: float | None
    accuracy: dict[str, float]


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Attributes:
        title: of the table.
        rows: one per contender.
        parity: of the bundle of `PROVED`.
        page: the report.
    """

    title: str
    rows: tuple[DemoRow, ...]
    parity: Parity
    page: Path

    def table(self) -> Table:
        """A line per method, for the terminal."""
        attributes = list(self.rows[0].accuracy)
        table = Table(title=f"{self.title}, ONNX Runtime on the CPU")
        table.add_column("method", no_wrap=True)
        for heading in ("calls", "MACs", "s / picture", "speedup", "PSNR to full", *attributes):
            table.add_column(heading, justify="right")
        for row in self.rows:
            table.add_row(
                row.name,
                str(row.calls),
                f"{row.macs / 1e9:.2f} G",
                f"{row.seconds:.2f}",
                f"{self.rows[0].seconds / row.seconds:.2f} x",
                "-" if row.psnr is None else f"{row.psnr:.1f} dB",
                *(f"{row.accuracy[name]:.0%}" for name in attributes),
            )
        return table


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
    _require_shipped(example)
    require_free(out)
    prompts = example.prompts()[: pictures or example.pictures]
    bundles = _bundles(example, out, report)
    engine = make_engine("onnxruntime", "cpu")
    rows, shown = _measured(example, bundles, engine, prompts, out, report)
    save_figure(draw_comparison(shown, example.gain), out / "compared.png")
    parity, page = _prove(bundles, engine, example.pipeline, prompts[0], out, report)
    record = {
        "example": example.name,
        "rows": [asdict(row) for row in rows],
        "parity": parity.to_json(),
    }
    write_atomically(out / "demo.json", json.dumps(record, indent=1) + "\n")
    return Demo(example.title, tuple(rows), parity, page)


def _require_shipped(example: Example) -> None:
    """Refuse an installation without the repository's examples."""
    if not example.pipeline.is_dir():
        msg = (
            f"the shipped pipeline {str(example.pipeline)!r} is not here; clone the repository and install "
            "it from there with make setup"
        )
        raise EngineError(msg)


def _measured(
    example: Example,
    bundles: Sequence[Bundle],
    engine: Engine,
    prompts: Sequence[str],
    out: Path,
    report: Callable[[str], None],
) -> tuple[list[DemoRow], dict[str, NDArray[np.uint8]]]:
    """A row per contender, and its pictures `[N, H, W, 3]`, of which a sheet is written to `out`."""
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
    return rows, shown


def _bundles(example: Example, out: Path, report: Callable[[str], None]) -> list[Bundle]:
    opened = open_asked(example.pipeline, scheduler=None, call=example.call)
    bundles = []
    for contender in example.contenders:
        report(f"{contender.name}: search and export")
        subnet = contender.make(opened, example)
        bundles.append(export(example.pipeline, subnet, out / contender.file))
    return bundles


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
