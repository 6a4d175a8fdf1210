"""What benchmarks leave behind."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import onnx
import pytest

from benchmarks.distill import kept_results, require_same
from benchmarks.record import RESULTS, ROOT, machine, portable
from benchmarks.trained import TRAINED, TRAINED_NAMES, trained_named
from search.distill.recipe import DistillRecipe
from tests.toys import chain, subnet

FOLDER = re.compile(r'(?:"|\s)(/\w[^"\s]*/[^"\s]+)')
COMMITTED = [
    *RESULTS.glob("*.json"),
    *(found for end in ("json", "onnx") for found in (ROOT / "examples").rglob(f"*.{end}")),
]


def text_of(file: Path) -> str:
    """The text of a file; of a graph, all but the values of its tensors."""
    if file.suffix != ".onnx":
        return file.read_text(encoding="utf-8")
    model = onnx.load(file, load_external_data=False)
    attributes = (each for node in model.graph.node for each in node.attribute)
    constants = (each.t for each in attributes if each.HasField("t"))
    for tensor in (*model.graph.initializer, *constants):
        tensor.ClearField("raw_data")
    return str(model)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (str(ROOT / "examples" / "judge.onnx"), "examples/judge.onnx"),
        (
            {"out": [Path("/somewhere/else/real.npy"), 3, "float32"]},
            {"out": ["real.npy", 3, "float32"]},
        ),
        ("examples/shapes", "examples/shapes"),
        ("ours=/somewhere/subnet.json", "ours=subnet.json"),
    ],
)
def test_a_record_keeps_no_folder_of_the_machine(value: object, kept: object) -> None:
    assert portable(value) == kept


@pytest.mark.parametrize("file", COMMITTED, ids=[str(f.relative_to(ROOT)) for f in COMMITTED])
def test_no_committed_file_names_a_folder_of_a_machine(file: Path) -> None:
    assert not FOLDER.findall(text_of(file))


def test_a_folder_would_be_seen() -> None:
    assert FOLDER.findall('"judge": "/home/someone/judge.onnx"')
    assert FOLDER.findall('"command": "python -m x -o /home/out"')


def test_a_folder_would_be_seen_in_a_graph(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    onnx.save(model, tmp_path / "plain.onnx")
    assert not FOLDER.findall(text_of(tmp_path / "plain.onnx"))
    trace = node.metadata_props.add(
        key="stack_trace", value='File "/home/someone/train.py", line 3'
    )
    model.graph.node[0].metadata_props.append(trace)
    onnx.save(model, tmp_path / "traced.onnx")
    assert FOLDER.findall(text_of(tmp_path / "traced.onnx"))


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"iterations": 3}, "iterations"), ({"batch": 1, "seed": 2}, "batch, seed")],
)
def test_a_kept_run_stands_for_its_own_settings_alone(changed: dict[str, Any], named: str) -> None:
    skipping = subnet(chain(), "RsR", "RsR")
    kept = {"recipe": asdict(DistillRecipe()), "removed": ["b"]}
    require_same("ours", kept, DistillRecipe(), skipping)
    with pytest.raises(click.ClickException, match=f"'ours' was made with another {named}; use"):
        require_same("ours", kept, DistillRecipe(**changed), skipping)
    with pytest.raises(click.ClickException, match="with another removed"):
        require_same("ours", {**kept, "removed": ["c"]}, DistillRecipe(), skipping)


def test_results_on_other_pictures_are_not_added_to(tmp_path: Path) -> None:
    file, settings = tmp_path / "distill.json", {"pictures": 128, "steps": 20}
    assert kept_results(file, settings)["runs"] == {}
    file.write_text(json.dumps({**settings, "before": {}, "runs": {"ours": {}}}))
    assert kept_results(file, settings)["runs"] == {"ours": {}}
    with pytest.raises(click.ClickException, match="of another number of pictures; use the same"):
        kept_results(file, {**settings, "pictures": 64})


def test_a_record_names_the_packages_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.record.PACKAGES", ("numpy", "no-such-package"))
    found = machine()
    assert found["numpy"]
    assert "no-such-package" not in found


def test_trained_pipelines_have_what_benchmarks_need() -> None:
    assert len(set(TRAINED_NAMES)) == len(TRAINED)
    for each in TRAINED:
        assert (each.path / "model_index.json").is_file()
        assert each.judge.is_file()
        assert each.held_out is None or each.held_out.is_file()
    expected = ["--guidance", "5", "--call", "max_sequence_length=1"]
    assert trained_named("emoji-sd3").options == expected
