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

from benchmarks.record import write

STEPS = (10, 25, 50)
EVERY = (0, 1, 7)
"""Checkpointing: none; caches of every step kept; of every seventh."""
SAMPLING = -1
"""In their place: a plain run."""
SHAPES_SD = Path(__file__).parent.parent / "examples" / "shapes" / "shapes-sd"


def main(pipeline: Path) -> None:
    """Write results/supernet-memory.json: MB above the loaded pipeline, and seconds of an iteration."""
    rows = []
    for steps in STEPS:
        for every in (*EVERY, SAMPLING):
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.supernet_memory"]
            command += [str(pipeline), str(steps), str(every)]
            found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
            rows.append({"steps": steps, "every": every, **found})
            click.echo(rows[-1])
    click.echo(write("supernet-memory", {"pipeline": str(pipeline), "rows": rows}))


def measure(pipeline: Path, steps: int, every: int) -> None:
    """Print what one iteration with everything running takes; a plain run for `every` SAMPLING."""
    import torch

    from search.core.subnet import Granularity
    from search.methods.options import Options
    from search.methods.whole import full
    from search.model.opening import open_pipeline
    from search.supernet.supernet import supernet

    opened = open_pipeline(pipeline)
    options = Options(steps=steps, guidance=3.0, granularity=Granularity.STAGE)
    whole = full(opened, options)
    with supernet(opened, whole, every=0 if every == SAMPLING else every) as net:
        noise = torch.randn(1, *whole.binding.latent_shape, generator=torch.manual_seed(0))
        case = net.case([opened.default_prompt], noise)
        before, start = _resident(), time.perf_counter()
        gates = net.full_gates().requires_grad_(every != SAMPLING)
        latents = net.run(gates, case).latents[-1]
        if every != SAMPLING:
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
