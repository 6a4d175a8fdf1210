"""The whole path on the shipped pipeline: search, export, run, verify, and a table of the gains."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from engines.base import Engine, make_engine
from engines.comparison import draw_comparison
from engines.errors import EngineError
from engines.parity import Parity, psnr, verify
from engines.pictures import save_sheet
from engines.report import write_report
from engines.runner import Runner
from exporter.exporting import export
from exporter.picture import save_figure
from search.core.files import require_free, write_atomically
from search.core.subnet import SubNet
from search.core.summary import summarise
from search.frontier.judge import Judge
from search.methods.options import Options
from search.methods.registry import search
from search.model.pipeline import open_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from exporter.bundle import Bundle
    from search.model.pipeline import Pipeline

SHAPES = Path(__file__).parent.parent / "examples" / "shapes"
GUIDANCE = 4.0
KEEP = 0.2
PICTURES = 32


@dataclass(frozen=True)
class Contender:
    """A line of the table before it is run.

    Attributes:
        name: in the table.
        file: of its bundle and pictures.
        make: searches or loads its SubNet.
    """

    name: str
    file: str
    make: Callable[[Pipeline], SubNet]


def _searched(method: str, **options: Any) -> Callable[[Pipeline], SubNet]:
    return lambda opened: search(opened, method, Options(guidance=GUIDANCE, **options))


def _shipped(name: str) -> Callable[[Pipeline], SubNet]:
    return lambda _: SubNet.load(SHAPES / "subnets" / f"{name}.json")


CONTENDERS = (
    Contender("full sampler", "full", _searched("full")),
    Contender("DeepCache, interval 5", "deepcache", _searched("deepcache", interval=5)),
    Contender("fewer steps", "fewer-steps", _searched("fewer-steps", keep=KEEP)),
    Contender("DiP-GO", "dip-go", _shipped("dip-go")),
    Contender("carve", "carve", _shipped("carve")),
    Contender(
        "carve, a short search", "carve-live",
        _searched("carve", keep=KEEP, pictures=8, iterations=2),
    ),
)  # fmt: skip
PROVED = "carve"
"""The file of the contender that is compared with PyTorch."""


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
        rows: as `CONTENDERS`.
        parity: of the bundle of `PROVED`.
        page: the report.
    """

    rows: tuple[DemoRow, ...]
    parity: Parity
    page: Path

    def table(self) -> Table:
        """A line per method, for the terminal."""
        attributes = list(self.rows[0].accuracy)
        table = Table(title="shapes-sd, 50-step DDIM, ONNX Runtime on the CPU")
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


def run_demo(out: Path, report: Callable[[str], None], *, pictures: int = PICTURES) -> Demo:
    """Run everything with `pictures` prompts and write it to `out`, which must not exist."""
    pipeline = SHAPES / "shapes-sd"
    if not pipeline.is_dir():
        msg = (
            f"the shipped pipeline {str(pipeline)!r} is not here; clone the repository and install "
            "it from there with make setup"
        )
        raise EngineError(msg)
    require_free(out)
    prompts = (SHAPES / "prompts.txt").read_text().splitlines()[:pictures]
    judge = Judge(SHAPES / "judge.onnx")
    bundles = _bundles(pipeline, out, report)
    engine = make_engine("onnxruntime", "cpu")
    rows: list[DemoRow] = []
    shown: dict[str, NDArray[np.uint8]] = {}
    for contender, bundle in zip(CONTENDERS, bundles, strict=True):
        images, seconds = _sample(contender.name, Runner(bundle, engine), prompts, report)
        save_sheet(images, out / f"{contender.file}.png")
        shown[contender.name] = images
        rows.append(
            DemoRow(
                name=contender.name,
                calls=len(bundle.calls),
                macs=summarise(bundle.subnet)["macs_kept"],
                seconds=seconds,
                psnr=_closeness(images, shown[CONTENDERS[0].name]),
                accuracy=judge.accuracy(judge.read(images), prompts),
            )
        )
    save_figure(draw_comparison(shown), out / "compared.png")
    parity, page = _prove(bundles, engine, pipeline, prompts[0], out, report)
    record = {"rows": [asdict(row) for row in rows], "parity": parity.to_json()}
    write_atomically(out / "demo.json", json.dumps(record, indent=1) + "\n")
    return Demo(tuple(rows), parity, page)


def _bundles(pipeline: Path, out: Path, report: Callable[[str], None]) -> list[Bundle]:
    opened = open_pipeline(pipeline)
    bundles = []
    for contender in CONTENDERS:
        report(f"{contender.name}: search and export")
        bundles.append(export(pipeline, contender.make(opened), out / contender.file))
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
