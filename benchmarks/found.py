"""Every SubNet that searches found, through the whole path: `python -m benchmarks.found PIPELINE SUBNET...`.

Each is exported and verified on every engine.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks.parity_matrix import verified
from benchmarks.record import write
from engines.parity import K
from search.schedules import keep_of
from search.subnet import SubNet
from tests.pipelines import SHIPPED


@click.command()
@click.argument("name")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--engine", "engines", multiple=True, default=("onnxruntime", "openvino"))
def main(name: str, files: tuple[Path, ...], engines: tuple[str, ...]) -> None:
    """Verify SubNets of the shipped pipeline NAME and write results/found-NAME.json."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            subnet = SubNet.load(file)
            made = verified(SHIPPED / name, subnet, Path(folder) / file.stem, engines)
            rows[file.stem] = {"method": subnet.method, "keep": keep_of(subnet), **made}
            click.echo(f"{file.stem}: {rows[file.stem]}")
    click.echo(write(f"found-{name}", {"k": K, "subnets": rows}))


if __name__ == "__main__":
    main()
