"""What the stages of a run leave, made up: two engines, of which the second is faster, and faster still in int8."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from engines.optimize.folder import OptimizeFolder
from engines.optimize.settings import OptimizeSettings

SUBNET = Path(__file__).parents[2] / "golden" / "subnet-schema-4.json"
POINT = {
    "method": "carve", "cost": 0.25, "calls": 5, "error": 0.02, "psnr": 41.5, "ssim": 0.99,
}  # fmt: skip


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_all(
    out: Path,
    settings: OptimizeSettings,
    *,
    failing: tuple[str, ...] = (),
    quantised: float | None = None,
) -> OptimizeFolder:
    """A folder in which only the page is missing.

    Args:
        out: the folder.
        settings: of the run.
        failing: engines on which parity fails.
        quantised: the error in int8, which the second engine runs; None: it was not tried.
    """
    from PIL import Image

    folder = OptimizeFolder(out)
    write(out / "settings.json", settings.to_json())
    shutil.copy(SUBNET, folder.subnet)
    engines = ("onnxruntime", "openvino")
    tried = {} if quantised is None else {"int8": ("openvino",)}
    write(folder.tried, {"refused": dict.fromkeys(tried, "")})
    write(
        folder.engines,
        {
            "engines": {"float32": engines, **tried},
            "builders": [],
            "left_out": {"tensorrt": "no <GPU> here"},
        },
    )
    points = {} if quantised is None else {"int8": {**POINT, "error": quantised, "psnr": 40.0}}
    fewer = {**POINT, "method": "fewer-steps", "cost": 0.2, "psnr": 30.25}
    write(
        folder.quality / "pictures.json",
        {
            "prompts": ["a red cross", 'a "blue" <disc>'],
            "classes": False,
            "full_timesteps": [999, 749, 499, 249],
            "psnr": {"ours": [41.0, 42.0], "fewer": [30.0, 30.5]}
            | {p: [40.0, 39.5] for p in points},
            "points": {"ours": POINT, "fewer": fewer, **points},
            "told_apart": True,
        },
    )
    for number, name in enumerate(("full", "ours", "fewer", *points)):
        for each in (0, 1):
            Image.new("RGB", (8, 8), (80 * number, 99, 0)).save(
                folder.quality / f"{name}-{each}.png"
            )
    Image.new("RGB", (8, 8)).save(folder.quality / "plot.png")
    write(folder.quality / "frontier" / "frontier.html", "")
    rungs = [_rung("manifest", passed=True), _rung("gated PyTorch", passed=True)]
    rungs += [_rung(f"{name} on cpu", passed=name not in failing) for name in engines]
    write(folder.parity("float32") / "parity.json", {"rungs": rungs})
    write(folder.parity("float32") / "report.html", "")
    if quantised is not None:
        _write_quantised(folder, holds="int8" not in failing)
    rows = [_row("eager", "", 4.0, full=True)]
    for name, seconds in zip(engines, (0.5, 0.4), strict=True):
        if name not in failing:
            rows += [
                _row("engine", name, 2.0, full=True),
                _row("engine", name, seconds, full=False),
            ]
    if len(rows) > 1:
        write(folder.bench("float32") / "bench.json", {"rows": rows})
    return folder


def _write_quantised(folder: OptimizeFolder, *, holds: bool) -> None:
    """Parity and seconds in int8."""
    rungs = [_rung("manifest", passed=True), _rung("integers and scales", passed=True)]
    rungs += [_rung("openvino on cpu in int8", passed=holds)]
    write(folder.parity("int8") / "parity.json", {"rungs": rungs})
    rows = [_row("engine", "openvino", seconds, full=seconds == 2) for seconds in (2, 0.25)]
    write(folder.bench("int8") / "bench.json", {"rows": rows})


def _rung(name: str, *, passed: bool) -> dict[str, Any]:
    off = {"relative": 2e-6, "floor": 1e-6}
    return {
        "name": name, "against": "PyTorch", "passed": passed,
        "finals": {"latents": off} if "on cpu" in name else {},
        "failures": [] if passed else ["the final latents differ"],
    }  # fmt: skip


def _row(kind: str, engine: str, seconds: float, *, full: bool) -> dict[str, Any]:
    """Three rounds, of which the machine was busy in the second."""
    rounds = [{"seconds": busy * seconds} for busy in (1, 3, 1)]
    return {
        "kind": kind, "engine": engine, "full": full,
        "seconds": {"median": seconds}, "samples": rounds,
        "memory": {"own": int(4e8 * seconds), "mapped": 10**7},
    }  # fmt: skip
