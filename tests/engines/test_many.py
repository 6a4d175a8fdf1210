"""Several verifications at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engines.errors import EngineError
from engines.parity import many
from engines.parity.many import VerifyPlan, verify_many
from exporter.bundle import Bundle
from exporter.exporting import export
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from search.runs.parallel import Where


@pytest.fixture(scope="module")
def two(
    pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, Bundle]:
    """A bundle of two variants, and one of one."""
    path = pipelines("learned-variance")
    subnet = search(open_pipeline(path, weights=False), "full", Options(steps=2))
    folder = tmp_path_factory.mktemp("many")
    return (
        export(path, subnet, folder / "both", batches=(1, 2)),
        export(path, subnet, folder / "single"),
    )


def plan(*bundles: Bundle, **settings: object) -> VerifyPlan:
    return VerifyPlan(tuple(bundle.path for bundle in bundles), ("onnxruntime",), **settings)


def names(asked: VerifyPlan) -> list[str]:
    return [check.name.split("-")[0] + check.name[-2:] for check in asked.checks()]


@pytest.mark.slow
def test_the_first_variant_of_each_bundle_or_all_that_fit(two: tuple[Bundle, Bundle]) -> None:
    assert names(plan(*two)) == ["bothx1", "singlex1"]
    assert names(plan(*two, all_variants=True)) == ["bothx1", "bothx2", "singlex1"]
    asked = plan(two[0], all_variants=True, shape=(None, None, 2))
    assert names(asked) == ["bothx2"]


@pytest.mark.parametrize(
    ("bundles", "engines", "all_variants", "expected"),
    [(1, 1, False, False), (2, 1, False, True), (1, 2, False, True), (1, 1, True, True)],
)
def test_what_was_asked_for_says_whether_it_is_several(
    bundles: int, engines: int, all_variants: bool, expected: bool
) -> None:
    paths, names = (Path("a"), Path("b"))[:bundles], ("x", "y")[:engines]
    assert VerifyPlan(paths, names, all_variants=all_variants).is_of_several is expected


def test_reports_of_several_lie_apart(two: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    (one,) = plan(two[1], folder=tmp_path).checks()
    assert one.folder == tmp_path
    both = plan(*two, folder=tmp_path).checks()
    assert [check.folder for check in both] == [tmp_path / check.name for check in both]


def test_the_same_bundle_twice_is_refused(two: tuple[Bundle, Bundle]) -> None:
    with pytest.raises(EngineError, match=r"several bundles would be called single-\d+x\d+x1"):
        plan(two[1], two[1]).checks()


def test_one_file_for_the_verdicts_of_several_is_refused(two: tuple[Bundle, Bundle]) -> None:
    with pytest.raises(EngineError, match="--junit writes one file, but 2 variants"):
        plan(*two, junit=Path("junit.xml")).checks()


def test_verdicts_come_in_the_order_that_was_asked(
    two: tuple[Bundle, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    def backwards(function: object, jobs: list[object], **_: object) -> object:
        return ((n, many.Verified(str(n), None, None)) for n in reversed(range(len(jobs))))

    monkeypatch.setattr(many, "run_jobs", backwards)
    told: list[float] = []
    checks = plan(*two, all_variants=True).checks()
    done = verify_many(
        checks, jobs=2, where=Where.LOCAL, report=lambda _, share: told.append(share)
    )
    assert [each.name for each in done] == ["0", "1", "2"]
    assert told[-1] == 1


def test_an_engine_that_is_not_there_is_refused_before_any_work(two: tuple[Bundle, Bundle]) -> None:
    asked = VerifyPlan((two[1].path,), ("onnxruntime", "magic"))
    with pytest.raises(EngineError, match="unknown engine 'magic'"):
        verify_many(asked.checks(), jobs=1, where=Where.LOCAL, report=lambda *_: None)


@pytest.mark.slow
@pytest.mark.parametrize("where", list(Where))
def test_processes_here_or_on_a_cluster_verify(
    two: tuple[Bundle, Bundle], tmp_path: Path, where: Where
) -> None:
    asked = plan(*two, all_variants=True, folder=tmp_path)
    done = verify_many(asked.checks(), jobs=2, where=where, report=lambda *_: None)
    assert [each.parity.failures for each in done] == [()] * 3
    assert all(each.page.is_file() for each in done)
