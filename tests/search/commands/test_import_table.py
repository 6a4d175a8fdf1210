"""`stepcarve import`: what it makes of gate files, honest and hostile ones."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from cli import main
from search.core.subnet import SubNet
from search.foreign.formats import FORMATS
from search.foreign.gate_file import SIZE_LIMIT
from search.foreign.importers import READERS
from tests import gate_files

UP, DOWN = ("up", "block", 0, 0), ("down", "block", 0, 0)
STEPS = 4


def gates() -> list[dict]:
    """Of the pipeline `three-levels`; step 2 is wholly reused."""
    return gate_files.table(3, STEPS, {(2, UP)})


def stepcarve_import(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["import", *map(str, arguments)])


def test_an_imported_table_is_a_subnet_like_any_other(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    source, out = gate_files.write(gates(), tmp_path / "gates.pkl"), tmp_path / "subnet.json"
    result = stepcarve_import(
        source, "-o", out, "--format", "dip-go-gates", "--pipeline", pipelines("three-levels"),
        "--scheduler", "EulerDiscreteScheduler", "--guidance", 3, "--height", 32, "--width", 32,
        "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert (data["calls"], data["steps"], data["keep"]) == (3, STEPS, 0.75)
    subnet = SubNet.load(out)
    assert subnet.binding.scheduler == "EulerDiscreteScheduler"
    assert (subnet.guidance, subnet.binding.latent_shape) == (3.0, (4, 16, 16))


class Planted:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def changed(step: int, key: Any, value: Any) -> bytes:
    content = gates()
    content[step][key] = value
    return pickle.dumps(content)


def without(step: int, key: Any) -> bytes:
    content = gates()
    del content[step][key]
    return pickle.dumps(content)


def nested() -> bytes:
    """A gate whose storage, itself a pickle, names a function to call."""
    tensor = torch.tensor(gate_files.KEEP)
    _, (storage, *rest), *_ = tensor.__reduce_ex__(2)
    _, (data,) = storage.__reduce__()
    planted = data.replace(b"ctorch\nFloatStorage\n", b"cposix\nsystem\n")
    assert planted != data
    rebuilt = Planted(torch.storage._load_from_bytes, planted)
    return changed(1, UP, Planted(torch._utils._rebuild_tensor_v2, rebuilt, *rest))


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a function": (
        lambda: changed(1, UP, Planted(os.system, "touch planted")),
        "names 'posix.system', which no gate file needs",
    ),
    "a function in the storage": (nested, "names 'posix.system', which no gate file needs"),
    "a function of torch": (
        lambda: changed(1, UP, Planted(torch.load, "x")),
        "names 'torch.serialization.load'",
    ),
    "a parameter": (
        lambda: changed(1, UP, torch.nn.Parameter(torch.tensor(gate_files.KEEP))),
        "names 'torch._utils._rebuild_parameter'",
    ),
    "a changed object": (
        lambda: b"\x80\x02]}b.",
        "makes objects (pickle instruction BUILD)",
    ),
    "a huge memo": (
        lambda: b"\x80\x02]r\xff\xff\xff\x7f.",
        "numbers an entry 2147483647 in 9 bytes",
    ),
    "truncated": (lambda: pickle.dumps(gates())[:-20], "is not a complete plain pickle"),
    "empty": (lambda: b"", "is not a complete plain pickle"),
    "text": (lambda: b"gates", "is not a complete plain pickle"),
    "two pickles": (lambda: pickle.dumps(gates()) * 2, "bytes after its end"),
    "too large": (lambda: bytes(SIZE_LIMIT + 1), "bytes, but a gate file has at most"),
    "not a list": (lambda: pickle.dumps({"gates": 1}), "holds a dict, not a list"),
    "no steps": (lambda: pickle.dumps([]), "holds an empty list; expected one dictionary per step"),
    "no dictionary": (lambda: pickle.dumps([*gates()[:3], 7]), "has a int as step 3"),
    "not one-hot": (
        lambda: changed(1, UP, torch.tensor([0.5, 0.5])),
        "has [0.5, 0.5] for the gate up 0 at step 1; expected [0.0, 1.0]",
    ),
    "both": (lambda: changed(1, UP, torch.tensor([1.0, 1.0])), "has [1.0, 1.0] for the gate up 0"),
    "not a number": (
        lambda: changed(1, UP, torch.tensor([float("nan"), 1.0])),
        "has [nan, 1.0] for the gate up 0 at step 1",
    ),
    "three numbers": (
        lambda: changed(1, UP, torch.tensor([0.0, 0.0, 1.0])),
        "has a tensor of shape (3,) for the gate up 0 at step 1",
    ),
    "half precision": (
        lambda: changed(1, UP, torch.tensor(gate_files.KEEP).half()),
        "names 'torch.HalfStorage'",
    ),
    "no tensor": (lambda: changed(1, UP, [0.0, 1.0]), "has a list for the gate up 0 at step 1"),
    "beyond the storage": (
        lambda: changed(
            1, UP, Planted(torch._utils._rebuild_tensor_v2, (0.0, 1.0), 9, (2,), (1,), False, None)
        ),
        "is not a complete plain pickle (IndexError)",
    ),
    "another kind": (
        lambda: changed(1, ("side", "block", 0, 0), torch.tensor(gate_files.KEEP)),
        "has the key ('side', 'block', 0, 0) at step 1; expected (kind, 'block', index, 0)",
    ),
    "a middle block beside the first": (
        lambda: changed(1, ("mid", "mid_block", 1, 0), torch.tensor(gate_files.KEEP)),
        "has the key ('mid', 'mid_block', 1, 0) at step 1",
    ),
    "the middle block twice": (
        lambda: changed(1, ("mid", "block", 0, 0), torch.tensor(gate_files.KEEP)),
        "names the gate mid 0 twice at step 1",
    ),
    "another key": (lambda: changed(1, b"up", 0), "has the key of type bytes at step 1"),
    "a block too many": (
        lambda: changed(1, ("up", "block", 3, 0), torch.tensor(gate_files.KEEP)),
        "step 1 of the gate file lacks no gate and has ['up 3'] beyond those of this U-Net",
    ),
    "a block too few": (
        lambda: without(2, DOWN),
        "step 2 of the gate file lacks ['down 0'] and has no gate beyond",
    ),
    "first step reuses": (
        lambda: changed(0, UP, torch.tensor(gate_files.REUSE)),
        "the gates ['up 0'] reuse their blocks at step 0",
    ),
    "a step too many": (
        lambda: pickle.dumps([*gates(), gates()[1]]),
        "has 5 steps, but DDIMScheduler with --steps 4 makes 4 calls",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_sentence_exit_2_and_nothing_written(
    pipelines: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    content, message = HOSTILE[name]
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "gates.pkl"
    source.write_bytes(content())
    result = stepcarve_import(
        source, "-o", tmp_path / "out.json", "--format", "dip-go-gates", "--steps", STEPS,
        "--pipeline", pipelines("three-levels"),
    )  # fmt: skip
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [source]


def test_a_directory_or_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    for source, message in ((tmp_path, "Is a directory"), (tmp_path / "x", "No such file")):
        result = stepcarve_import(
            source, "-o", tmp_path / "out", "--format", "dip-go-gates", "--pipeline", tmp_path
        )
        assert result.exit_code == 2
        assert message in result.stderr
        assert repr(str(source)) in result.stderr


def test_the_format_is_checked_first(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    result = stepcarve_import(
        tmp_path / "none.pkl", "-o", tmp_path / "out", "--format", "magic", "--pipeline", tmp_path
    )
    assert result.exit_code == 2
    assert f"'magic' is not one of {', '.join(map(repr, FORMATS))}" in result.stderr


def test_every_format_has_a_reader() -> None:
    assert {*READERS, "learning-to-cache"} == set(FORMATS)


def test_parameters_without_steps_are_for_fifty(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    source, out = tmp_path / "deepcache.json", tmp_path / "subnet.json"
    source.write_text(json.dumps({"cache_interval": 5}))
    result = stepcarve_import(
        source, "-o", out, "--format", "deepcache", "--pipeline", pipelines("shapes-sd"), "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["calls"] == 50
    assert SubNet.load(out).method == "deepcache interval 5 branch 0"
