"""Peak memory and time of one SuperNet iteration against the number of steps.

    python -m benchmarks.supernet_memory [PIPELINE]

Every measurement has a process of its own, and reads its largest resident set.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import click

STEPS = (10, 25, 50)
EVERY = (0, 1, 7)
"""Checkpointing: none; caches of every step kept; of every seventh."""
SHAPES_SD = Path(__file__).parent.parent / "examples" / "shapes" / "shapes-sd"


def main(pipeline: Path) -> None:
    """Print a table: MB above the loaded pipeline, and seconds of an iteration."""
    click.echo(
        "| steps | " + " | ".join(f"every {every}: MB, s" for every in EVERY) + " | sampling: MB |"
    )
    for steps in STEPS:
        cells = []
        for every in (*EVERY, -1):
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.supernet_memory"]
            command += [str(pipeline), str(steps), str(every)]
            found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
            cells.append(f"{found['megabytes']:.0f}, {found['seconds']:.1f}")
        click.echo(f"| {steps} | " + " | ".join(cells) + " |")


def measure(pipeline: Path, steps: int, every: int) -> None:
    """Print what one iteration with everything running takes; a plain run for `every` -1."""
    import torch

    from search.dipgo.supernet import supernet
    from search.methods import full
    from search.model.pipeline import open_pipeline
    from search.options import Options
    from search.subnet import Granularity

    opened = open_pipeline(pipeline)
    options = Options(steps=steps, guidance=3.0, granularity=Granularity.STAGE)
    whole = full(opened, options)
    with supernet(opened, whole, every=max(every, 0)) as net:
        noise = torch.randn(1, *whole.binding.latent_shape, generator=torch.manual_seed(0))
        case = net.case([opened.family.default_prompt], noise)
        before, start = _resident(), time.perf_counter()
        gates = net.full_gates().requires_grad_(every >= 0)
        latents = net.run(gates, case).latents[-1]
        if every >= 0:
            torch.autograd.backward(latents.square().mean())
        seconds = time.perf_counter() - start
    click.echo(json.dumps({"megabytes": (_resident() - before) / 1e3, "seconds": seconds}))


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    if len(sys.argv) > 2:
        measure(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else SHAPES_SD)
