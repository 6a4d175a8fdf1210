"""What exports take through the loop's body, and took before: `python -m benchmarks.body_cost CHECKOUT`.

CHECKOUT is a folder with the last commit before the body (e8904ad). Both sides search, export and run the
same pipelines in turn, in processes of their own: the families that were there before, as small pipelines,
and with `--sd15` Stable Diffusion 1.5 at full size with random weights.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks import record

SIDE = Path(__file__).with_name("body_cost_side.py")
FAMILIES = (
    "three-levels", "sdxl", "sd3", "flux-dev", "pixart-alpha", "pixart-sigma", "aura-flow", "learned-variance",
)  # fmt: skip
"""Names in `tests/pipelines.py`."""
_RUN = (
    "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def _side(checkout: Path, *arguments: str | Path) -> dict[str, Any]:
    """What one side prints."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-W", "ignore", "-c", _RUN, str(SIDE), *map(str, arguments)]
    text = subprocess.run(
        command, cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def _measured(checkout: Path, path: Path, method: str, folder: Path) -> dict[str, Any]:
    """One search, export and run of one side."""
    subnet, out = folder / "subnet.json", folder / "bundle"
    searched = _side(checkout, "search", path, method, subnet)
    found = _side(checkout, "export", path, subnet, out)
    if method == "full":
        found |= _side(
            checkout, "compare", path, out
        )  # the random weights of a full size are no picture
    shutil.rmtree(out)
    return {"search_cpu_seconds": searched["cpu_seconds"], **found}


def _best(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The least of what several rounds took."""
    return {name: min(each[name] for each in rounds) for name in rounds[0]}


@click.command()
@click.argument("checkout", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--sd15", is_flag=True, help="Stable Diffusion 1.5 at full size.")
@click.option("--rounds", default=2, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(FAMILIES), help="Keep the other rows.")
def main(checkout: Path, sd15: bool, rounds: int, only: tuple[str, ...]) -> None:
    """Measure both sides and write results/body-cost.json, or body-cost-sd15.json."""
    from benchmarks import full_size
    from tests.pipelines import RANDOM

    sides = {"before": checkout.resolve(), "body": record.ROOT}
    cases = [("sd15", "rotating")] if sd15 else [(f, "full") for f in only or FAMILIES]
    name, rows = "body-cost-sd15" if sd15 else "body-cost", list[dict[str, Any]]()
    if only:
        known = json.loads((record.RESULTS / f"{name}.json").read_text(encoding="utf-8"))["rows"]
        rows = [row for row in known if row["pipeline"] not in only]
    for pipeline, method in cases:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pipeline"
            if sd15:
                full_size.sd15(path)
            else:
                RANDOM[pipeline]().save_pretrained(path)
            found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
            for _ in range(rounds):
                for side, root in sides.items():
                    found[side].append(_measured(root, path, method, Path(folder)))
        best = {side: _best(each) for side, each in found.items()}
        ratios = {
            key: round(best["body"][key] / value, 3)
            for key, value in best["before"].items()
            if value
        }
        rows.append({"pipeline": pipeline, "method": method, **best, "ratio": ratios})
        click.echo(f"{pipeline} {method}: {best['before']} {best['body']} {ratios}")
        record.write(name, {"rounds": rounds, "rows": rows})


if __name__ == "__main__":
    main()
