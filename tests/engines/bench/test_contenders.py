"""Which rows there are, and what the DeepCache package is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engines.bench.contenders import DeepCacheSetting, contenders, deepcache_setting
from engines.bench.full import _require, full_bundle, full_subnet, is_full
from engines.bench.records import Against, ContenderKind
from engines.errors import EngineError
from exporter.bundle import Bundle
from search.core.errors import SearchError
from search.core.quantisation import Quantisation, scheme_named
from search.core.subnet import Granularity, SubNet
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_asked, open_pipeline

PIPELINE = "three-levels"
STEPS = 6
MakeBundle = Callable[[str, SubNet], Bundle]
Found = Callable[..., SubNet]


@pytest.fixture(scope="module")
def found(pipelines: Callable[[str], Path]) -> Found:
    """A SubNet by method and options."""
    opened = open_pipeline(pipelines(PIPELINE), weights=False)
    return lambda method, **options: search(opened, method, Options(steps=STEPS, **options))


def test_the_package_is_told_what_the_subnet_does(found: Found) -> None:
    assert deepcache_setting(found("deepcache", interval=3, branch=1)) == DeepCacheSetting(3, 1)


def test_another_table_is_not_the_packages(found: Found) -> None:
    assert deepcache_setting(found("random", keep=0.5)) is None
    assert deepcache_setting(found("random", keep=0.5), interval=2) == DeepCacheSetting(2, 0)
    assert deepcache_setting(found("fewer-steps", keep=0.5)) is None


def test_the_package_is_not_told_what_it_cannot_do(found: Found) -> None:
    stages = found("full", granularity=Granularity.STAGE)
    assert deepcache_setting(stages) is None
    with pytest.raises(SearchError, match="DeepCache needs a U-Net at branch granularity"):
        deepcache_setting(stages, interval=5)


@pytest.mark.parametrize(("device", "in_torch"), [("cpu", "float32"), ("cuda", "float16")])
def test_a_row_says_what_it_computes_in(
    found: Found, make_bundle: MakeBundle, device: str, in_torch: str
) -> None:
    full = replace(make_bundle(PIPELINE, found("full")), dtype="float16")
    made = contenders(
        full,
        full,
        pipeline=Path("p"),
        engines=("a",),
        device=device,
        against=(Against.EAGER,),
        setting=None,
    )
    assert [each.dtype for each in made] == [in_torch, "float16"]


def test_a_quantised_full_sampler_stands_beside_the_one_in_floating_point(
    found: Found, make_bundle: MakeBundle
) -> None:
    full = make_bundle(PIPELINE, found("full"))
    files = {**full.files, "quantisation.json": ""}
    quantised = replace(full, quantisation="quantisation.json", files=files)
    vars(quantised)["plan"] = Quantisation.of_weights(scheme_named("int8-weights"))
    rows = contenders(
        quantised,
        full_bundle(quantised, Path("p"), given=full.path, folder=Path("f")),
        pipeline=Path("p"),
        engines=("a",),
        device="cpu",
        against=(),
        setting=None,
    )
    told = [(each.name, each.dtype, each.precision, each.is_full) for each in rows]
    assert told == [
        ("a", "float32", "float32", True), ("a + SubNet", "float32", "int8-weights", False),
    ]  # fmt: skip
    with pytest.raises(EngineError, match="has precision 'int8-weights', but the full sampler of"):
        _require(full, quantised)


@pytest.mark.slow
def test_rows_of_a_subnet_and_of_a_full_sampler(found: Found, make_bundle: MakeBundle) -> None:
    full = make_bundle(PIPELINE, found("full"))
    bundle = make_bundle(PIPELINE, found("deepcache", interval=3))

    def rows(which: Bundle, *against: Against) -> list[tuple[str, ContenderKind, bool]]:
        made = contenders(
            which,
            full,
            pipeline=Path("p"),
            engines=("a", "b"),
            device="cpu",
            against=against,
            setting=DeepCacheSetting(3, 0),
        )
        return [(each.name, each.kind, each.is_full) for each in made]

    assert rows(bundle, *Against) == [
        ("PyTorch", ContenderKind.EAGER, True),
        ("PyTorch + SubNet", ContenderKind.REFERENCE, False),
        ("torch.compile", ContenderKind.COMPILE, True),
        ("DeepCache package, interval 3 branch 0", ContenderKind.DEEPCACHE, False),
        ("a", ContenderKind.ENGINE, True),
        ("a + SubNet", ContenderKind.ENGINE, False),
        ("b", ContenderKind.ENGINE, True),
        ("b + SubNet", ContenderKind.ENGINE, False),
    ]
    assert [name for name, *_ in rows(full, Against.EAGER)] == ["PyTorch", "a", "b"]


def test_a_sampler_of_fewer_steps_stands_in_for_more(
    found: Found, pipelines: Callable[[str], Path]
) -> None:
    fewer = found("fewer-steps", keep=0.5)
    full = full_subnet(fewer, pipelines(PIPELINE))
    assert (fewer.steps, full.steps) == (3, STEPS)
    assert is_full(full)
    assert not is_full(fewer)


@pytest.mark.parametrize("method", ["fewer-steps", "random"])
def test_split_calls_are_compared_with_the_pipelines_own(
    method: str, pipelines: Callable[[str], Path]
) -> None:
    path = pipelines(PIPELINE)
    opened = open_asked(path, scheduler=None, split_streams=True)
    full = full_subnet(search(opened, method, Options(steps=STEPS, keep=0.5)), path)
    assert (full.topology.streams, full.binding.split_streams) == (("",), False)
    assert is_full(full)
    assert full.steps == STEPS
    assert not is_full(search(opened, "full", Options(steps=STEPS))), "its calls are split"


@pytest.mark.slow
def test_the_full_sampler_is_exported_once(
    found: Found, make_bundle: MakeBundle, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = make_bundle(PIPELINE, found("random", keep=0.5))
    told: list[str] = []
    for _ in range(2):
        made = full_bundle(
            bundle, pipelines(PIPELINE), given=None, folder=tmp_path / "full", report=told.append
        )
        assert is_full(made.subnet)
    assert told.count("export the full sampler: open pipeline") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("random", {"keep": 0.5}, "has keep 0"),
        ("full", {"guidance": 3.0}, "has guidance 3.0, but the full sampler of"),
    ],
)
def test_another_bundle_is_not_the_full_sampler(
    found: Found, make_bundle: MakeBundle, method: str, options: dict[str, float], message: str
) -> None:
    bundle = make_bundle(PIPELINE, found("deepcache", interval=3))
    other = make_bundle(PIPELINE, found(method, **options))
    with pytest.raises(EngineError, match=message):
        full_bundle(bundle, Path("p"), given=other.path, folder=Path("f"))


def test_a_full_bundle_is_its_own(found: Found, make_bundle: MakeBundle) -> None:
    full = make_bundle(PIPELINE, found("full"))
    assert full_bundle(full, Path("p"), given=None, folder=Path("f")) is full
    assert not is_full(replace(full.subnet, full_calls=2 * STEPS))
