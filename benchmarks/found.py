"""Every SubNet that searches found, through the whole path: `python -m benchmarks.found PIPELINE SUBNET...`.

Each is exported and verified on every requested engine.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.parity_matrix import verified
from benchmarks.record import portable, write
from benchmarks.trained import TRAINED_NAMES, trained_named
from engines.parity import K
from search.core.subnet import SubNet
from search.core.table import keep_of


@click.command()
@click.argument("name", type=click.Choice(TRAINED_NAMES))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--engine", "engines", multiple=True, default=("onnxruntime", "openvino"))
def main(name: str, files: tuple[Path, ...], engines: tuple[str, ...]) -> None:
    """Verify SubNets of the shipped pipeline NAME and write results/found-NAME.json."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, file in enumerate(files):
            subnet = SubNet.load(file)
            made = verified(trained_named(name).path, subnet, Path(folder) / str(number), engines)
            label = portable(str(file))
            rows[label] = {
                "method": subnet.method,
                "scheduler": subnet.binding.scheduler,
                "steps": subnet.binding.inference_steps,
                "keep": keep_of(subnet),
                **made,
            }
            click.echo(f"{label}: {rows[label]}")
    click.echo(write(f"found-{name}", {"k": K, "subnets": rows}))
    sys.exit(not all(row["passed"] for row in rows.values()))


if __name__ == "__main__":
    main()
