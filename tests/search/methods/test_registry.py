"""The records of the methods, and what is made of them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from search.core.errors import SearchError
from search.core.granularity import Granularity
from search.dipgo.recipe import PAPER
from search.fitting.effort import ITERATIONS, Effort
from search.frontier.registry import SERIES
from search.laptop.by_hand import VARIANTS as PUBLISHED
from search.methods import registry
from search.methods.method import COSTS, Method, Task
from search.methods.options import Options
from search.methods.registry import METHODS, NAMES, method_of, search, search_keeps
from search.methods.removals import VARIANTS
from search.methods.table import methods_table
from search.model.opening import open_pipeline

ROOT = Path(__file__).parents[3]


def test_the_docs_have_the_table_of_the_registry() -> None:
    assert methods_table() in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_names_are_once_each_and_carve_is_the_default() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert NAMES[0] == "carve"


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_a_method_uses_options_that_there_are(method: Method) -> None:
    known = {field.name.replace("_", "-") for field in fields(Options)} | {"run", "resume"}
    assert set(method.options) <= known
    assert set(method.costs) <= set(COSTS)
    assert set(method.granularities) <= set(Granularity)
    assert set(method.defaults) <= {field.name for field in fields(Options)}


def test_defaults_are_those_of_what_is_called() -> None:
    usual = Effort()
    assert method_of("carve").defaults == {
        "pictures": usual.fitted_on + usual.held_out,
        "iterations": ITERATIONS,
    }
    assert method_of("dip-go").defaults == {"iterations": PAPER.iterations}
    assert (*PUBLISHED, "keep") == VARIANTS


def test_the_registry_loads_no_framework() -> None:
    code = "import sys, search.methods.registry; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "numpy", "onnx"} & set(done.stdout.split())


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(SearchError, match="unknown method 'magic'; choose one of carve, dip-go"):
        method_of("magic")


def test_a_granularity_that_the_method_does_not_know_is_refused(
    pipelines: Callable[[str], Path],
) -> None:
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    with pytest.raises(SearchError, match="cannot use --granularity stage; choose branch"):
        search(opened, "deepcache", Options(steps=3, granularity=Granularity.STAGE))


def test_nothing_is_a_reference_where_nothing_is_fitted(pipelines: Callable[[str], Path]) -> None:
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    with pytest.raises(SearchError, match="but nothing is fitted; add --fit-sampler"):
        search_keeps(opened, "full", Options(steps=3, reference_steps=9), [1.0])


def test_a_new_method_is_a_record_and_a_line(
    monkeypatch: pytest.MonkeyPatch, pipelines: Callable[[str], Path]
) -> None:
    """Its name is in the table and it can be searched with; nothing else names methods."""

    def make(task: Task) -> list[object]:
        return [task.whole for _ in task.keeps]

    new = Method("dummy", "do nothing", make, options=("interval",))
    monkeypatch.setattr(registry, "METHODS", (*METHODS, new))
    monkeypatch.setattr(registry, "NAMES", (*NAMES, "dummy"))
    monkeypatch.setattr("search.methods.table.METHODS", (*METHODS, new))
    assert "| `dummy` | do nothing | `--interval` |" in methods_table()
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    origin = search(opened, "dummy", Options(steps=3, interval=4)).origin
    assert origin is not None
    assert (origin.method, origin.options) == ("dummy", {"interval": 4, "fit-sampler": False})


def test_the_help_names_every_method_and_what_uses_an_option() -> None:
    told = CliRunner().invoke(main, ["search", "--help"]).stdout
    words = " ".join(told.split())
    for method in METHODS:
        assert re.search(rf"{re.escape(method.name)} +{re.escape(method.help[:25])}", words)
    assert "[used by: deepcache]" in words
    assert "[default: 8 (carve), 1000 (dip-go)]" in words


def test_the_frontier_compares_every_method_that_decides_step_by_step() -> None:
    """Under the same names; the others there are baselines that only stand beside them."""
    by_step = {m.name for m in METHODS if "params" not in m.costs} - {
        "full",
        "adopt",
        "ssd-1b",
        "vega",
    }
    assert by_step <= {each.name for each in SERIES}
