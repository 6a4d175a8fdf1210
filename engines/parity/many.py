"""Several bundles and variants verified at once, each with all engines, here or on a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from engines.base import DEFAULTS, EngineOptions, make_engine
from engines.errors import EngineError
from engines.parity import K, verify
from engines.report import write_junit, write_report
from exporter.bundle import Bundle
from search.runs.parallel import Where, require_workers, run_jobs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engines.base import Engine, Report
    from engines.parity.record import Parity
    from exporter.shape import Shape


@dataclass(frozen=True)
class VerifyPlan:
    """What is to be verified, and how.

    Attributes:
        bundles: directories.
        engines: names.
        device: of all engines.
        options: likewise.
        shape: height, width and images per prompt of the variants; None may be anything.
        all_variants: every variant that fits, or the first of each bundle.
        pipeline: directory of the pipeline; None is where a bundle was exported from.
        loras: files of LoRAs that are not where they were when a bundle was exported.
        prompt: what to sample; None is anything that the bundle can show.
        label: likewise, of a bundle that shows classes.
        negative: the negative prompt; empty for none.
        guidance: scale; None is the bundle's.
        seed: of the noises.
        k: how many floors may be off.
        bisect: name the first block that is off.
        folder: for the reports: a folder in it for each check, if there are several; None writes none.
        junit: file of one check's verdict for people's CI.
    """

    bundles: tuple[Path, ...]
    engines: tuple[str, ...]
    device: str = "cpu"
    options: EngineOptions = DEFAULTS
    shape: tuple[int | None, int | None, int | None] = (None, None, None)
    all_variants: bool = False
    pipeline: Path | None = None
    loras: tuple[Path, ...] = ()
    prompt: str | None = None
    label: str | None = None
    negative: str = ""
    guidance: float | None = None
    seed: int = 0
    k: float = K
    bisect: bool = False
    folder: Path | None = None
    junit: Path | None = None

    @property
    def is_of_several(self) -> bool:
        """Whether several bundles, variants or engines were requested."""
        return len(self.bundles) > 1 or self.all_variants or len(self.engines) > 1

    def checks(self) -> list[Check]:
        """One for each variant.

        Raises:
            ExportError: no variant of a bundle fits.
            EngineError: no engine is named, two reports would have one name, or JUnit XML of several is requested.
        """
        if not self.engines:
            msg = "no engine is named; give one or more with --engine, as in onnxruntime,openvino"
            raise EngineError(msg)
        found = [(path, shape) for path in self.bundles for shape in self._shapes(path)]
        if len(found) > 1 and self.junit is not None:
            msg = (
                f"--junit writes one file, but {len(found)} variants are to be verified; give "
                "--report, which writes one for each"
            )
            raise EngineError(msg)
        names = [_name(path, shape) for path, shape in found]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            msg = f"several bundles would be called {', '.join(twice)}; rename one, or verify it alone"
            raise EngineError(msg)
        if self.folder is None or len(found) == 1:
            return [Check(self, path, shape, self.folder) for path, shape in found]
        return [
            Check(self, *each, self.folder / name) for each, name in zip(found, names, strict=True)
        ]

    def _shapes(self, path: Path) -> list[Shape]:
        request = dict(zip(("height", "width", "images"), self.shape, strict=True))
        first = Bundle.open(path, **request)
        if not self.all_variants:
            return [first.shape]
        return [
            shape
            for shape in first.shapes
            if all(want in (None, getattr(shape, name)) for name, want in request.items())
        ]


@dataclass(frozen=True)
class Check:
    """One variant of one bundle, to be verified.

    Attributes:
        plan: how.
        bundle: its directory.
        shape: of the variant.
        folder: for the report; None writes none.
    """

    plan: VerifyPlan
    bundle: Path
    shape: Shape
    folder: Path | None

    @property
    def name(self) -> str:
        """For people, and for files."""
        return _name(self.bundle, self.shape)


@dataclass(frozen=True)
class Verified:
    """What became of a check.

    Attributes:
        name: of the check.
        parity: the verdict.
        page: of the report, if there is one.
    """

    name: str
    parity: Parity
    page: Path | None


def verify_many(
    checks: Sequence[Check], *, jobs: int, where: Where, report: Report
) -> list[Verified]:
    """The verdicts, in the order of the checks; an engine that cannot be made stops it before any."""
    require_workers(jobs)
    for check in checks[:1]:
        _engines(check.plan)
    alone = jobs == 1 and where is Where.LOCAL
    function = partial(verify_one, report=report) if alone else verify_one
    done: dict[int, Verified] = {}
    for number, verified in run_jobs(function, checks, workers=jobs, where=where):
        done[number] = verified
        report(f"verified {verified.name}", len(done) / len(checks))
    return [done[number] for number in range(len(checks))]


def verify_one(check: Check, report: Report = lambda *_: None) -> Verified:
    """Verify one variant, and write its report if it is to have one."""
    plan, shape = check.plan, check.shape
    opened = Bundle.open(check.bundle, height=shape.height, width=shape.width, images=shape.images)
    bundle = opened.with_loras(plan.loras)
    prompt = bundle.default_prompt if plan.prompt is None else plan.prompt
    if plan.label is not None:
        prompt = bundle.require_prompt(prompt=plan.prompt, label=plan.label)
    parity, pictures = verify(
        bundle,
        _engines(plan),
        bundle.find_pipeline(plan.pipeline),
        prompt=prompt,
        negative=plan.negative,
        guidance=plan.guidance,
        seed=plan.seed,
        k=plan.k,
        bisect=plan.bisect,
        report=report,
    )
    if plan.junit is not None:
        write_junit(plan.junit, bundle, parity)
    page = write_report(check.folder, bundle, parity, pictures) if check.folder else None
    return Verified(check.name, parity, page)


def _engines(plan: VerifyPlan) -> list[Engine]:
    return [make_engine(name, plan.device, plan.options) for name in plan.engines]


def _name(bundle: Path, shape: Shape) -> str:
    return f"{bundle.resolve().name}-{shape.tag}"
