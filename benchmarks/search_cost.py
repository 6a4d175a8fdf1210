"""Seconds and memory of a search of three keeps: `python -m benchmarks.search_cost shapes-sd`.

Beside it the memory of one run of diffusers' own sampler, the 50 steps of one picture. Each is a process of its own.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.frontier import GUIDANCE
from benchmarks.record import write
from examples.shapes.evaluate import HERE

KEEPS = "0.5,0.3,0.2"
EVERY = 0.2
"""Seconds between two looks at the memory."""
SAMPLE = """
import sys
from pathlib import Path
from search.model.family import Request
from search.model.pipeline import open_pipeline
from search.model.reference import sample
from search.methods.prompts import default_prompts
opened = open_pipeline(Path(sys.argv[1]))
sample(opened, Request(tuple(default_prompts(opened)[:1]), 50, float(sys.argv[2])))
"""


@click.command()
@click.argument("name", type=click.Choice(list(GUIDANCE)))
@click.option("--keep", default=KEEPS, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Keep what is found here.")
def main(name: str, keep: str, out: Path | None) -> None:
    """Measure both and write results/search-cost-NAME.json."""
    guidance = str(GUIDANCE[name])
    with tempfile.TemporaryDirectory() as folder:
        search = measured(
            "-m", "cli", "search", HERE / name, "-o", (out or Path(folder)) / "found.json",
            "--method", "carve", "--keep", keep, "--guidance", guidance,
        )  # fmt: skip
    once = measured("-c", SAMPLE, HERE / name, guidance)
    for each in (search, once):
        del each["printed"]
    ratio = round(search["peak_mb"] / once["peak_mb"], 2)
    record = {"keep": keep, "search": search, "sampling": once, "memory_ratio": ratio}
    click.echo(record)
    click.echo(write(f"search-cost-{name}", record))


def measured(*arguments: str | Path) -> dict[str, Any]:
    """Seconds and largest resident set of Python with these arguments, and the last line that it prints.

    Raises:
        click.ClickException: it failed.
    """
    began, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as printed:
        child = psutil.Popen([sys.executable, *map(str, arguments)], stdout=printed)
        while child.poll() is None:
            try:
                peak = max(peak, child.memory_info().rss)
            except psutil.Error:
                break
            time.sleep(EVERY)
        if child.wait() != 0:
            msg = f"{' '.join(map(str, arguments[:4]))} failed with exit code {child.returncode}"
            raise click.ClickException(msg)
        seconds = round(time.perf_counter() - began, 1)
        printed.seek(0)
        last = (printed.read().splitlines() or [""])[-1]
    return {"seconds": seconds, "peak_mb": peak // 10**6, "printed": last}


if __name__ == "__main__":
    main()
