"""Seconds and memory of a search of three keeps: `python -m benchmarks.search_cost shapes-sd`.

Beside it the memory of one run of diffusers' own sampler, all steps of one picture. Each is a process of its own.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.record import write
from benchmarks.trained import TRAINED_NAMES, trained_named

KEEPS = "0.5,0.3,0.2"
EVERY = 0.2
"""Seconds between two looks at the memory."""
SAMPLE = """
import sys
from benchmarks.trained import trained_named
from search.model.family import Request
from search.model.reference import sample
trained = trained_named(sys.argv[1])
opened = trained.open()
prompts, _ = trained.prompts(opened)
sample(opened, Request(prompts[:1], trained.steps, trained.guidance))
"""


@click.command()
@click.argument("name", type=click.Choice(TRAINED_NAMES))
@click.option("--keep", default=KEEPS, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Keep what is found here.")
def main(name: str, keep: str, out: Path | None) -> None:
    """Measure both and write results/search-cost-NAME.json."""
    trained = trained_named(name)
    with tempfile.TemporaryDirectory() as folder:
        search = measured(
            "-m", "cli", "search", trained.path, "-o", (out or Path(folder)) / "found.json",
            "--method", "carve", "--keep", keep, *trained.options,
        )  # fmt: skip
    once = measured("-c", SAMPLE, name)
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
