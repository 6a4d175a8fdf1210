"""The pipeline of a run, opened once and only if a stage still needs it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from search.core.granularity import Granularity
from search.frontier.quality import sample_held_out
from search.frontier.registry import series_named
from search.frontier.rivals.layers import DEEPCACHE
from search.frontier.rivals.solvers import FEWER_STEPS
from search.frontier.settings import FrontierSettings
from search.methods.prompts import split_prompts
from search.methods.registry import method_of, search_keeps
from search.methods.whole import full
from search.model.opening import open_asked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engines.optimize.settings import OptimizeSettings
    from search.core.quantisation import Quantisation
    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet
    from search.frontier.quality import HeldOut, Quality
    from search.methods.options import Options
    from search.model.pipeline import Pipeline

LEAST_PICTURES, LEAST_ITERATIONS = 8, 2


@dataclass(frozen=True)
class Work:
    """What searching and comparing share.

    Attributes:
        settings: of the run.
        report: called with a progress message and the completed fraction.
    """

    settings: OptimizeSettings
    report: Callable[..., None]

    @cached_property
    def pipeline(self) -> Pipeline:
        """With its weights."""
        self.report("open pipeline")
        settings = self.settings
        return open_asked(
            settings.pipeline,
            scheduler=settings.scheduler,
            scheduler_options=settings.scheduler_options,
            call=settings.call,
            split_streams=settings.split_streams,
            device=settings.device,
        )

    @cached_property
    def prompts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """To search with and to compare with: every other one of those given, or of the pipeline's."""
        given = self.settings.options.prompts
        if len(given) > 1:
            return given[::2], given[1::2]
        return split_prompts(self.pipeline, search=given, evaluate=given)

    @cached_property
    def options(self) -> Options:
        """Of the search, at this run's effort."""
        method, tier = method_of(self.settings.method), self.settings.tier
        usual = method.defaults
        return replace(
            self.settings.options,
            granularity=method.granularity,
            prompts=self.prompts[0],
            pictures=scaled(usual.get("pictures"), tier.pictures, LEAST_PICTURES),
            iterations=None
            if tier.iterations == 1
            else scaled(usual.get("iterations"), tier.iterations, LEAST_ITERATIONS),
        )

    @cached_property
    def whole(self) -> SubNet:
        """The full sampler."""
        self.report("trace the denoiser")
        return full(self.pipeline, replace(self.options, granularity=Granularity.BRANCH))

    @cached_property
    def comparison(self) -> FrontierSettings:
        """What the frontier that is drawn says of itself."""
        mine, options = self.settings, self.options
        methods = dict.fromkeys((series_named(mine.method), FEWER_STEPS, DEEPCACHE))
        return FrontierSettings(
            steps=options.steps,
            scheduler=mine.scheduler,
            scheduler_options=mine.scheduler_options,
            guidance=options.guidance,
            keeps=mine.goal.keeps,
            methods=tuple(methods),
            prompts=self.prompts[0],
            held_out=self.prompts[1],
            count=mine.tier.held_out,
            fine_steps=mine.tier.finer * self.whole.binding.inference_steps,
            pictures=options.pictures,
            iterations=options.iterations,
            seed=options.seed,
        )

    @cached_property
    def held_out(self) -> HeldOut:
        """Pictures of the full sampler that no search has seen."""
        return sample_held_out(
            self.pipeline, self.whole, self.prompts[1], self.comparison, self.report
        )

    def search(self, keep: float, folder: Path) -> SubNet:
        """The method's SubNet for one cost; what an earlier, killed search left in `folder` is used."""
        method = method_of(self.settings.method)
        resumes = "resume" in method.options
        [found] = search_keeps(
            self.pipeline,
            method.name,
            self.options,
            [keep],
            folder=folder if resumes else None,
            resume=resumes,
            report=lambda text, share=None: self.report(f"search: {text}", share),
        )
        return found

    def table(self, subnet: SubNet) -> SamplerTable:
        """The rows that it runs with."""
        return self.pipeline.sampler_of(subnet)

    def quality(self, subnet: SubNet, plan: Quantisation | None = None) -> Quality:
        """Its distance from the full sampler on the held-out pictures, its layers rounded by a plan."""
        return self.held_out.examine(subnet, self.table(subnet), plan=plan)


def scaled(usual: int | None, share: float, least: int) -> int | None:
    """A share of a number, but not too little; None for a method that has no such number."""
    return None if usual is None else max(least, round(share * usual))
