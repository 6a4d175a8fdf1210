"""Final latents of the runner against diffusers' own pipeline: `python -m benchmarks.exactness`.

Per pipeline and granularity: random SubNets against blocks gated by hand; `full` against diffusers as it
is; `deepcache` against the DeepCache package. The graphs are traced once per pipeline and granularity
and carved per SubNet, which is what an export does with them.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch

from benchmarks.record import write
from engines.base import make_engine
from engines.parity import relative_l2
from engines.runner import Runner
from exporter.exporting import export
from search.core.subnet import Granularity, SubNet
from search.methods.options import Options
from search.methods.registry import search
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.reference import sample
from tests.hand_gating import gated_by_hand
from tests.pipelines import RANDOM, SHIPPED
from tests.traces import traced_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from search.model.pipeline import Pipeline

GUIDANCE = 7.5
PROMPTS = {"shapes-dit": "red circle", "learned-variance": "7"}
PROMPT = "a small red circle left on a grey field"
DEEPCACHE = ((2, 0), (3, 1), (5, 0), (5, 4), (10, 7))


class Exactness:
    """Runs SubNets of one pipeline on the engine and in diffusers, from the same noise."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.root, self.made = name, root, 0
        self.path = SHIPPED / name
        if name in RANDOM:
            self.path = root / name
            RANDOM[name]().save_pretrained(self.path)
        self.opened: Pipeline = open_pipeline(self.path)
        self.prompt = PROMPTS.get(name, PROMPT)

    def error(self, subnet: SubNet, expected: Callable[[Request], torch.Tensor]) -> float:
        """Relative L2 of the final latents."""
        self.made += 1
        bundle = export(self.path, subnet, self.root / f"{self.name}-{self.made}")
        rng = np.random.default_rng(self.made)
        noise = rng.standard_normal(bundle.latent_shape, dtype=np.float32)
        found = Runner(bundle, make_engine("onnxruntime", "cpu")).run(self.prompt, latents=noise)
        request = Request(
            (self.prompt,),
            subnet.binding.inference_steps,
            GUIDANCE,
            latents=torch.from_numpy(noise),
        )
        return relative_l2(found.latents, expected(request).numpy())

    def plain(self, request: Request) -> torch.Tensor:
        """The final latents of diffusers as it is."""
        return sample(self.opened, request).latents[-1]


def compare_random(
    each: Exactness, granularity: Granularity, count: int, steps: int
) -> list[float]:
    """`count` random SubNets that keep between 0.15 and 0.9, against blocks gated by hand."""
    errors = []
    for seed in range(count):
        keep = round(0.15 + 0.75 * seed / max(1, count - 1), 3)
        options = Options(steps=steps, keep=keep, granularity=granularity, seed=seed)
        subnet = search(each.opened, "random", options)

        def by_hand(request: Request, subnet: SubNet = subnet) -> torch.Tensor:
            with gated_by_hand(each.opened.denoiser, subnet, each.opened.family):
                return each.plain(request)

        errors.append(each.error(subnet, by_hand))
    return errors


def compare_deepcache(each: Exactness, steps: int) -> dict[str, float]:
    """Several intervals and branches against the DeepCache package."""
    from DeepCache import DeepCacheSDHelper

    def by_package(request: Request) -> torch.Tensor:
        helper = DeepCacheSDHelper(pipe=each.opened.pipe)
        helper.set_params(cache_interval=interval, cache_branch_id=branch)
        helper.enable()
        try:
            return each.plain(request)
        finally:
            helper.disable()

    errors = {}
    for interval, branch in DEEPCACHE:
        options = Options(steps=steps, interval=interval, branch=branch)
        subnet = search(each.opened, "deepcache", options)
        errors[f"interval {interval} branch {branch}"] = each.error(subnet, by_package)
    return errors


@click.command()
@click.argument("name", type=click.Choice(["shapes-sd", "shapes-dit", *RANDOM]))
@click.option("--count", default=20, show_default=True, help="Random SubNets per granularity.")
@click.option("--steps", default=20, show_default=True, help="Of the random SubNets.")
def main(name: str, count: int, steps: int) -> None:
    """Compare everything for the pipeline NAME and write results/exactness-NAME.json."""
    result: dict[str, Any] = {"pipeline": name, "guidance": GUIDANCE, "random_steps": steps}
    with tempfile.TemporaryDirectory() as folder:
        each = Exactness(name, Path(folder))
        with traced_once():
            full = search(each.opened, "full", Options(steps=50))
            result["full, 50 steps"] = each.error(full, each.plain)
            if name == "shapes-sd":
                result["deepcache, 50 steps"] = compare_deepcache(each, 50)
        for granularity in Granularity:
            with traced_once():
                errors = compare_random(each, granularity, count, steps)
            result[f"random {granularity}"] = {
                "subnets": count,
                "largest": max(errors),
                "median": statistics.median(errors),
                "errors": errors,
            }
            click.echo(f"{name} {granularity}: largest {max(errors):.1e} of {count}")
    click.echo(write(f"exactness-{name}", result))


if __name__ == "__main__":
    main()
