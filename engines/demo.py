"""The whole path on the shipped pipeline: search, export, run, verify, and a table of the gains."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from engines.base import make_engine
from engines.errors import EngineError
from engines.parity import Parity, psnr, verify
from engines.pictures import save_sheet
from engines.report import write_report
from engines.runner import Runner
from exporter.exporting import export
from exporter.picture import draw_grid, save_figure
from search.core.files import require_free, write_atomically
from search.core.summary import summarise
from search.frontier.judge import Judge
from search.methods.options import Options
from search.methods.registry import search
from search.model.pipeline import open_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from exporter.bundle import Bundle

SHAPES = Path(__file__).parent.parent / "examples" / "shapes"
GUIDANCE = 4.0
INTERVAL = 5
PICTURES = 32


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
        rows: full, DeepCache, fewer steps.
        parity: of the DeepCache bundle.
        page: the report.
    """

    rows: tuple[DemoRow, ...]
    parity: Parity
    page: Path

    def table(self) -> Table:
        """A line per method, for the terminal."""
        attributes = list(self.rows[0].accuracy)
        table = Table(title="shapes-sd, 50-step DDIM, ONNX Runtime on the CPU")
        table.add_column("method")
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
    reference: NDArray[np.uint8] | None = None
    for name, bundle in bundles.items():
        runner = Runner(bundle, engine)
        images, seconds = _sample(name, runner, prompts, report)
        save_sheet(images, out / f"{bundle.path.name}.png")
        rows.append(
            DemoRow(
                name=name,
                calls=len(bundle.calls),
                macs=summarise(bundle.subnet)["macs_kept"],
                seconds=seconds,
                psnr=None
                if reference is None
                else float(np.mean([psnr(a, b) for a, b in zip(images, reference, strict=True)])),
                accuracy=judge.accuracy(judge.read(images), prompts),
            )
        )
        reference = images if reference is None else reference
    cached = bundles["DeepCache"]
    save_figure(draw_grid(cached.subnet), out / "grid.png")
    report("verify DeepCache against PyTorch")
    parity, shown = verify(cached, [engine], pipeline, prompt=prompts[0])
    page = write_report(out / "report", cached, parity, shown)
    record = {"rows": [asdict(row) for row in rows], "parity": parity.to_json()}
    write_atomically(out / "demo.json", json.dumps(record, indent=1) + "\n")
    return Demo(tuple(rows), parity, page)


def _bundles(pipeline: Path, out: Path, report: Callable[[str], None]) -> dict[str, Bundle]:
    opened = open_pipeline(pipeline, weights=False)
    options = {
        "full": ("full", Options(guidance=GUIDANCE)),
        "DeepCache": ("deepcache", Options(guidance=GUIDANCE, interval=INTERVAL)),
    }
    bundles: dict[str, Bundle] = {}
    for name, (method, chosen) in options.items():
        report(f"{name}: search and export")
        subnet = search(opened, method, chosen)
        bundles[name] = export(pipeline, subnet, out / method)
    report("fewer steps: search and export")
    keep = summarise(bundles["DeepCache"].subnet)["keep"]
    fewer = search(opened, "fewer-steps", Options(guidance=GUIDANCE, keep=keep))
    bundles["fewer steps"] = export(pipeline, fewer, out / "fewer-steps")
    return bundles


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
