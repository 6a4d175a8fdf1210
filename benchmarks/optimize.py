"""What `stepcarve optimize` takes, stage by stage: `python -m benchmarks.optimize shapes-sd --quality quick`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.record import write
from benchmarks.trained import TRAINED_NAMES, trained_named
from engines.optimize.settings import TIERS

KEPT = ("goal", "method", "calls", "full_calls", "macs_ratio", "told_apart", "taken", "verdict")
"""Of the result."""


@click.command()
@click.argument("name", type=click.Choice(TRAINED_NAMES))
@click.option("--quality", type=click.Choice([each.name for each in TIERS]), default="quick")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Keep what is made here.")
def main(name: str, quality: str, out: Path | None) -> None:
    """Run it, or read what it has left, and write results/optimize-NAME-QUALITY.json."""
    with tempfile.TemporaryDirectory() as folder:
        place = out or Path(folder) / "out"
        trained = trained_named(name)
        line = ["optimize", trained.path, "-o", place, "--quality", quality]
        line += [*trained.options, "--json"]
        command = [sys.executable, "-m", "cli", *map(str, line)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        record = recorded(json.loads(done.stdout))
    click.echo(record["total"])
    click.echo(write(f"optimize-{name}-{quality}", record))


def recorded(result: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a result: seconds, and what came out; no paths."""
    kept = {name: result[name] for name in KEPT}
    kept["taken"] = {n: value for n, value in kept["taken"].items() if n != "bundle"}
    figures = ("cost", "calls", "error", "psnr", "ssim")
    times = result["times"]
    return {
        "stages": times,
        "total": {
            unit: sum(spent[unit] for spent in times.values())
            for unit in ("seconds", "processor_seconds")
        },
        **kept,
        "quality": {each: result["quality"][each] for each in figures},
        "fewer_steps": {each: result["fewer_steps"][each] for each in figures},
    }


if __name__ == "__main__":
    main()
