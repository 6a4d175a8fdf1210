"""The stages of `stepcarve optimize`, in order; each leaves what it makes, and the next run skips it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from engines.bench.full import full_bundle, is_full
from engines.bench.records import Against
from engines.bench.run import BenchSettings, bench
from engines.bench.show import write_bench
from engines.build import build_bundle
from engines.kinds import engine_kind
from engines.optimize.candidates import engine_for, find_candidates
from engines.optimize.choose import choose_subnet
from engines.optimize.compare import compare
from engines.optimize.estimate import estimate
from engines.optimize.folder import OptimizeFolder
from engines.optimize.forms import Form, forms_of, refusals
from engines.optimize.outcome import holding, outcome_of
from engines.optimize.page import page_of
from engines.optimize.quantised import quantise_subnet
from engines.optimize.work import Work
from engines.parity.many import VerifyPlan, verify_many
from exporter.bundle import Bundle
from exporter.exporting import export
from search.core.files import whole_directory, write_atomically
from search.core.quantisation import Quantisation
from search.core.subnet import SubNet
from search.runs.parallel import Where

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from engines.optimize.candidates import Candidates
    from engines.optimize.settings import OptimizeSettings


@dataclass(frozen=True)
class Run:
    """One run of the command.

    Attributes:
        settings: what is wanted.
        folder: where it goes.
        report: called with a progress message and the completed fraction.
        note: called with a sentence for people.
    """

    settings: OptimizeSettings
    folder: OptimizeFolder
    report: Callable[..., None]
    note: Callable[[str], None]

    @cached_property
    def candidates(self) -> Candidates:
        """The engines and precisions to choose from."""
        return find_candidates(self.settings)

    @property
    def forms(self) -> tuple[Form, ...]:
        """In which the SubNet is measured."""
        return forms_of(self.folder, self.settings)

    @cached_property
    def work(self) -> Work:
        """The pipeline, for the stages that need its weights in PyTorch."""
        return Work(self.settings, self.report)

    def tell(self, what: str) -> Callable[..., None]:
        """`report`, with the stage in front."""
        return lambda text, share=None: self.report(f"{what}: {text}", share)


@dataclass(frozen=True)
class Stage:
    """One step on the way.

    Attributes:
        name: on the page and in `times.json`.
        made: what is there once the stage is done.
        make: makes what is missing of it.
    """

    name: str
    made: Callable[[Run], list[Path]]
    make: Callable[[Run], None]


def optimize(
    settings: OptimizeSettings,
    out: Path,
    *,
    report: Callable[..., None] = lambda _text, _share=None: None,
    note: Callable[[str], None] = lambda _text: None,
) -> dict[str, Any]:
    """Make everything that is not in `out` yet; returns the content of its `result.json`.

    Args:
        settings: what is wanted.
        out: a new directory, or that of an earlier run with the same settings.
        report: called with a progress message and the completed fraction.
        note: called with one sentence per finding on the way.

    Raises:
        EngineError: the directory is another run's, or an engine that was asked for does not work.
        SearchError: settings that do not fit the pipeline.
        ExportError: the pipeline cannot be compiled.
    """
    folder = OptimizeFolder(out)
    run = Run(settings, folder, report, note)
    with folder.claimed(settings):
        for stage in STAGES:
            if all(path.exists() for path in stage.made(run)):
                continue
            with folder.timed(stage.name):
                stage.make(run)
        return folder.read(folder.result)


def _search(run: Run) -> None:
    candidates = run.candidates  # what is not installed should not be found out after the search
    run.note(estimate(run.work, sum(map(len, candidates.engines.values())), len(_schemes(run))))
    run.folder.searches.mkdir(exist_ok=True)
    choose_subnet(run.work, run.folder)


def _schemes(run: Run) -> dict[str, tuple[str, ...]]:
    """Scheme of quantisation -> engines that it is tried for."""
    dtypes, engines = run.settings.dtypes, run.candidates.engines
    return {name: names for name, names in engines.items() if name not in dtypes}


def _quantise(run: Run) -> None:
    quantise_subnet(run.work, run.folder, _schemes(run))


def _compare(run: Run) -> None:
    compare(run.work, run.folder)
    vars(run).pop("work", None)  # frees the pipeline's memory


def _export(run: Run) -> None:
    settings, folder = run.settings, run.folder
    for form in run.forms:
        out = folder.bundle(form.name)
        if not out.exists():
            subnet = SubNet.load(form.subnet)
            plan = None if form.plan is None else Quantisation.load(form.plan)
            tell = run.tell(f"export {form.name}")
            export(settings.pipeline, subnet, out, dtype=form.dtype, plan=plan, report=tell)
        if form.plan is None:
            bundle, full = Bundle.open(out), folder.full(form.dtype)
            full_bundle(bundle, settings.pipeline, given=None, folder=full, report=run.report)


def _build(run: Run) -> None:
    candidates, settings, folder = run.candidates, run.settings, run.folder
    # An engine may be gone since the layers were quantised for it.
    engines = {form.name: candidates.engines.get(form.name, ()) for form in run.forms}
    for form in run.forms:
        names = engines[form.name]
        builders = candidates.builders if form.plan is None else ()
        for name in (*names, *builders):
            engine = engine_for(settings, name)
            if engine.suffix is not None and engine_kind(name).needs_build:
                for place in dict.fromkeys((folder.bundle(form.name), _full(run, form))):
                    build_bundle(Bundle.open(place), engine, report=run.tell(f"build {name}"))
    refused = {name: why for name, why in refusals(folder, settings.goal).items() if why}
    left_out = {**candidates.left_out, **refused}
    folder.write(folder.engines, {**vars(candidates), "engines": engines, "left_out": left_out})


def _full(run: Run, form: Form) -> Path:
    """The full sampler's bundle in floating point; the SubNet's own if it is that."""
    own = run.folder.bundle(form.dtype)
    return own if is_full(Bundle.open(own).subnet) else run.folder.full(form.dtype)


def _verify(run: Run) -> None:
    folder = run.folder
    prompt = folder.read(folder.quality / "pictures.json")["prompts"][0]
    for form, names in folder.read(folder.engines)["engines"].items():
        place, bundle = folder.parity(form), Bundle.open(folder.bundle(form))
        if place.exists() or not names:
            continue
        with whole_directory(place) as whole:
            plan = VerifyPlan(
                bundles=(bundle.path,),
                engines=tuple(names),
                device=run.settings.device,
                pipeline=run.settings.pipeline,
                prompt=None if bundle.takes_labels else prompt,
                label=prompt if bundle.takes_labels else None,
                folder=whole,
            )
            verify_many(plan.checks(), jobs=1, where=Where.LOCAL, report=run.tell("verify"))


def _bench(run: Run) -> None:
    settings, folder = run.settings, run.folder
    engines = folder.read(folder.engines)["engines"]
    for form in run.forms:
        good = holding(folder, form.name, engines[form.name], settings.device)
        if folder.bench(form.name).exists() or not good:
            continue
        with whole_directory(folder.bench(form.name)) as whole:
            wanted = BenchSettings(
                engines=good,
                device=settings.device,
                against=(Against.EAGER,),
                full=_full(run, form),
                repeats=settings.tier.rounds,
                threads=settings.threads,
            )
            bundle = Bundle.open(folder.bundle(form.name))
            found = bench(bundle, settings.pipeline, wanted, out=whole, report=run.tell("bench"))
            write_bench(found, whole)


def _page(run: Run) -> None:
    folder = run.folder
    folder.write(folder.result, outcome_of(folder, run.settings))
    write_atomically(folder.page, page_of(folder, folder.read(folder.result)))


def _bundles(run: Run) -> list[Path]:
    """One of the SubNet in each form, and one of the full sampler in each type."""
    fulls = [_full(run, form) for form in run.forms if run.folder.bundle(form.dtype).exists()]
    return [*(run.folder.bundle(form.name) for form in run.forms), *fulls]


def _reports(run: Run) -> list[Path]:
    """One for each form that an engine runs."""
    found = run.folder.read(run.folder.engines)["engines"]
    return [run.folder.parity(form) for form, names in found.items() if names]


def _benches(run: Run) -> list[Path]:
    """One for each form in which parity holds."""
    folder, device = run.folder, run.settings.device
    found = folder.read(folder.engines)["engines"]
    return [folder.bench(d) for d, names in found.items() if holding(folder, d, names, device)]


STAGES = (
    Stage("search", lambda run: [run.folder.subnet], _search),
    Stage("quantise", lambda run: [run.folder.tried], _quantise),
    Stage("compare", lambda run: [run.folder.quality], _compare),
    Stage("export", _bundles, _export),
    Stage("build", lambda run: [run.folder.engines], _build),
    Stage("verify", _reports, _verify),
    Stage("bench", _benches, _bench),
    Stage("page", lambda run: [run.folder.result, run.folder.page], _page),
)
"""In order."""
