"""What a search method is: a record that the command line, the registry and the docs read. No framework."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError
from search.core.granularity import Granularity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from search.core.sampler import ScaleRange
    from search.core.subnet import SubNet
    from search.core.table import Cost
    from search.methods.options import Options
    from search.model.pipeline import Pipeline

COSTS = ("macs", "params", "latency")
"""What `--keep` can be a fraction of."""
FITTING = ("prompts", "seed", "reference-steps", "guidance-range")
"""Options of whatever fits a sampler, with `--fit-sampler`."""
MEASURING = ("engine", "latencies", "batch")
"""Options of what measures calls, with `--cost latency`."""
WITH_WEIGHTS = ("device", "dtype")
"""Options of what calls the denoiser."""
CONDITIONS = dict.fromkeys(FITTING, "--fit-sampler") | dict.fromkeys(MEASURING, "--cost latency")


@dataclass(frozen=True)
class Task:
    """One search.

    Attributes:
        pipeline: with its weights loaded if the method needs them.
        options: the given ones, with the method's defaults.
        keeps: a SubNet is wanted for each of them.
        cost: that they are fractions of.
        folder: for logs and checkpoints, or None.
        resume: go on from what is in `folder`.
        report: called with a progress message and the completed fraction.
        note: called with one sentence per further finding.
    """

    pipeline: Pipeline
    options: Options
    keeps: Sequence[float]
    cost: Cost
    folder: Path | None = None
    resume: bool = False
    report: Callable[..., None] = lambda _text, _share=None: None
    note: Callable[[str], None] = lambda _text: None

    @cached_property
    def whole(self) -> SubNet:
        """Every block at every step."""
        from search.methods.whole import full

        return full(self.pipeline, self.options)

    @property
    def scales(self) -> ScaleRange | None:
        """The guidance scales that fitted rows are for; None: one.

        Raises:
            SearchError: a scale among them switches guidance off, or that of the search is not among them.
        """
        from search.core.sampler import ScaleRange

        asked = self.options.guidance_range
        if asked is None:
            return None
        scales = ScaleRange(*asked, self.whole.guidance)
        if self.whole.binding.guided and scales.low <= 1:
            msg = (
                f"guidance {scales.low:g} in --guidance-range switches guidance off, which makes other calls "
                "of the denoiser; give a range above 1"
            )
            raise SearchError(msg)
        return scales

    @cached_property
    def prompts(self) -> Sequence[str]:
        """To search with."""
        from search.methods.prompts import default_prompts

        return self.options.prompts or default_prompts(self.pipeline)

    def each(self, make: Callable[[float], SubNet]) -> list[SubNet]:
        """`make` of each keep."""
        return [make(keep) for keep in self.keeps]


@dataclass(frozen=True)
class Method:
    """One search method.

    Attributes:
        name: on the command line and in SubNets.
        help: what it does, in one clause.
        make: the SubNets of a task; imports what it needs when it is called.
        options: those that only some methods use, by their names on the command line.
        granularities: that it works at, its default first.
        costs: among `COSTS`, that it chooses by, its default first; none if it counts no cost.
        defaults: of options that every method sets for itself, by their names in `Options`.
        needs_weights: whether it calls the denoiser, or only looks at its architecture.
        fits_itself: whether its SubNets always have a fitted sampler.
        idle: names of its options that have no effect beside the values of the others.
        calls: of the denoiser, one for each picture, that a search takes, from its options, the full
            sampler and the keep; None: unknown.
    """

    name: str
    help: str
    make: Callable[[Task], list[SubNet]]
    options: tuple[str, ...] = ()
    granularities: tuple[Granularity, ...] = (
        Granularity.BRANCH,
        Granularity.STAGE,
        Granularity.LAYER,
    )
    costs: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    needs_weights: bool = False
    fits_itself: bool = False
    idle: Callable[[Options], tuple[str, ...]] = lambda _: ()
    calls: Callable[[Options, SubNet, float], float] | None = None

    @property
    def granularity(self) -> Granularity:
        """The default granularity."""
        return self.granularities[0]

    @property
    def cost(self) -> str:
        """The default cost."""
        return self.costs[0] if self.costs else COSTS[0]

    @property
    def own(self) -> tuple[str, ...]:
        """All options that only some methods use and this one does."""
        costs = ("cost",) if self.costs else ()
        weights = WITH_WEIGHTS if self.needs_weights else ()
        fit = () if self.fits_itself else ("fit-sampler",)
        return (*self.options, *costs, *fit, *weights)

    def used(self, options: Options, cost: str) -> set[str]:
        """The same with those that other options bring into use, without those that they put out of it."""
        used = set(self.own) - set(self.idle(options))
        if options.fit_sampler:
            used |= {*FITTING, *WITH_WEIGHTS}
        if cost == "latency":
            used |= {*MEASURING, "device"}
        return used

    def resolved(self, options: Options) -> Options:
        """`options` with this method's defaults in place of None."""
        missing = {n: v for n, v in self.defaults.items() if getattr(options, n) is None}
        return replace(options, **missing)

    def recorded(self, options: Options) -> dict[str, Any]:
        """The options that decide what is found, as JSON values, beside keep and seed."""
        used = self.used(options, self.cost) - {"keep", "seed", "prompts"}
        decide = [f.name for f in fields(options) if f.name.replace("_", "-") in used - RUNNING]
        values = {name.replace("_", "-"): getattr(options, name) for name in decide}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


RUNNING = {"run", "resume", "jobs", "parallel", "device"}
"""Options that decide how a search runs, not what it finds."""


def require_used(
    method: Method, options: Options, cost: str, given: Iterable[str], methods: Sequence[Method]
) -> None:
    """Refuse options that were given and have no effect.

    Args:
        method: chosen.
        options: with all their values.
        cost: counted.
        given: names of the options on the command line.
        methods: all there are.

    Raises:
        SearchError: the method does not use one of them.
    """
    optional = {name for each in methods for name in each.own} | CONDITIONS.keys()
    unused = sorted((set(given) & optional) - method.used(options, cost))
    if unused:
        named = ", ".join(f"--{name}{_users(name, method, methods)}" for name in unused)
        msg = f"the method {method.name!r} does not use {named}; leave out what it does not use"
        raise SearchError(msg)


def _users(name: str, method: Method, methods: Sequence[Method]) -> str:
    """What would use the option, in parentheses."""
    if name in method.own:
        return " with the other options given"
    users = [each.name for each in methods if name in each.own]
    parts = [f"for {', '.join(users)}"] if users else []
    parts += [f"with {CONDITIONS[name]}"] if name in CONDITIONS else []
    return f" ({'; '.join(parts)})"


def require_fit(options: Options, method: Method) -> None:
    """Refuse `--reference-steps` and `--guidance-range` without a fit."""
    if options.fit_sampler or method.fits_itself:
        return
    if options.guidance_range is not None:
        msg = (
            "--guidance-range says which scales to fit rows for, but nothing is fitted; add --fit-sampler, "
            "or leave it out: the scheduler's own rows are for any scale"
        )
        raise SearchError(msg)
    if options.reference_steps is not None:
        msg = (
            "--reference-steps names the sampler to fit to, but nothing is fitted; add --fit-sampler, "
            "or leave it out"
        )
        raise SearchError(msg)


def require_choice(name: str, value: str, choices: Sequence[str], method: Method) -> None:
    """Refuse a value of an option that this method cannot work with."""
    if value not in choices:
        msg = (
            f"the method {method.name!r} cannot use --{name} {value}; choose {' or '.join(choices)}"
        )
        raise SearchError(msg)
