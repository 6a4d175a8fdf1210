"""What is run is what it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from engines.bench.contenders import DeepCacheSetting, contenders
from engines.bench.records import Against, ContenderKind
from engines.bench.worker import forwards_before, opened
from exporter.bundle import Bundle
from search.core.subnet import SubNet
from search.fitting.half_calls import Halves
from search.methods.options import Options
from search.methods.registry import search
from search.model import reference
from search.model.opening import open_pipeline
from tests.search.fitting.two_calls import opened_in_two, with_own_rows

PIPELINE = "three-levels"
STEPS = 6


@pytest.mark.parametrize(
    "kind",
    [ContenderKind.EAGER, ContenderKind.REFERENCE, ContenderKind.DEEPCACHE, ContenderKind.ENGINE],
)
def test_every_kind_times_its_calls_and_ends_where_it_should(
    kind: ContenderKind,
    pipelines: Callable[[str], Path],
    make_bundle: Callable[[str, SubNet], Bundle],
) -> None:
    pipeline = open_pipeline(pipelines(PIPELINE), weights=False)
    full, bundle = (
        make_bundle(PIPELINE, search(pipeline, method, Options(steps=STEPS, interval=3)))
        for method in ("full", "deepcache")
    )
    rows = contenders(
        bundle,
        full,
        pipeline=pipelines(PIPELINE),
        engines=("onnxruntime",),
        device="cpu",
        against=tuple(Against),
        setting=DeepCacheSetting(3, 0),
    )
    contender = next(row for row in reversed(rows) if row.kind is kind)
    latents = []
    original = reference.sample

    def sample(*args: object, **kwargs: object) -> reference.Trajectory:
        found = original(*args, **kwargs)
        latents.append(found.latents[-1])
        return found

    with mock.patch.object(reference, "sample", sample):
        told = opened.__wrapped__(contender).run()
    short = opened.__wrapped__(replace(contender, calls=2)).run()
    assert len(short.calls) == 2
    assert len(told.calls) == STEPS
    assert 0 < sum(told.calls) <= told.loop * 1.05 < told.total
    if kind is ContenderKind.DEEPCACHE:
        expected = opened.__wrapped__(
            next(row for row in rows if row.kind is ContenderKind.REFERENCE)
        )
        with mock.patch.object(reference, "sample", sample):
            expected.run()
        assert latents[0].allclose(latents[1], atol=1e-4), "the package does what the SubNet does"


def test_a_gated_step_may_leave_calls_out(
    pipelines: Callable[[str], Path], make_bundle: Callable[[str, SubNet], Bundle]
) -> None:
    """Four steps of two calls each, of which two steps are half calls."""
    opened_so = opened_in_two(pipelines(PIPELINE))
    whole = with_own_rows(opened_so, steps=4, guidance=3.0)
    halved = Halves(1, 1).of(whole)
    assert halved is not None
    full, bundle = make_bundle(PIPELINE, whole), make_bundle(PIPELINE, halved)
    rows = contenders(
        bundle,
        full,
        pipeline=pipelines(PIPELINE),
        engines=("onnxruntime",),
        device="cpu",
        against=tuple(Against),
        setting=DeepCacheSetting(3, 0),
    )
    for kind in (ContenderKind.EAGER, ContenderKind.REFERENCE):
        contender = next(row for row in rows if row.kind is kind)
        assert len(opened.__wrapped__(contender).run().calls) == 4
        assert len(opened.__wrapped__(replace(contender, calls=3)).run().calls) == 3


def test_steps_with_other_numbers_of_calls_end_where_their_last_one_does() -> None:
    """Guidance off in the last two of four steps."""
    grouped = SimpleNamespace(calls_of=lambda step: ("cond", "uncond") if step < 2 else ("cond",))
    assert forwards_before(grouped, range(4)) == (0, 2, 4, 5, 6)  # type: ignore[arg-type]
    assert forwards_before(grouped, (0, 3)) == (0, 2, 3)  # type: ignore[arg-type]
