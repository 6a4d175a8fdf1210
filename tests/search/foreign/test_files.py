"""Tables of DeepCache, Learning-to-Cache and Cache-DiT: there and back, and what is no such table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.subnet import Granularity, SubNet
from search.core.table import with_actions
from search.foreign.importers import read_foreign
from search.foreign.mask_file import read_mask
from search.foreign.router_file import read_routers
from search.methods import schedules
from search.methods.full import full
from search.methods.options import Options
from search.model.pipeline import open_pipeline
from search.model.reference import sample
from tests.search.model.test_reference import difference, request


def imported(
    pipelines: Callable[[str], Path], name: str, path: Path, form: str, options: Options
) -> SubNet:
    opened = open_pipeline(pipelines(name), weights=False)
    return read_foreign(path, form).subnet(opened, options)


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(("interval", "branch"), [(3, 1), (5, 0)])
def test_deepcache_parameters_are_the_schedule(
    pipelines: Callable[[str], Path], tmp_path: Path, interval: int, branch: int
) -> None:
    from DeepCache import DeepCacheSDHelper

    opened = open_pipeline(pipelines("shapes-sd"), weights=False)
    helper = DeepCacheSDHelper(opened.pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    params = helper.params
    path = write(
        tmp_path / "params.json",
        {
            "cache_interval": params["cache_interval"],
            "cache_branch_id": 3 * params["cache_block_id"] + params["cache_layer_id"],
            "skip_mode": params["skip_mode"],
        },
    )
    found = imported(pipelines, "shapes-sd", path, "deepcache", Options(steps=10))
    expected = schedules.deepcache(
        full(opened, Options(steps=10)), interval=interval, branch=branch
    )
    assert found == expected


def routers_of(subnet: SubNet) -> dict[str, Tensor]:
    """The state dict of routers that compute what `subnet` computes."""
    outer = sorted({name.split(".")[1] for name in subnet.topology.blocks}, key=int)
    units = [f"transformer_blocks.{i}.{part}" for i in outer for part in ("attn1", "ff")]
    columns = [subnet.topology.blocks.index(name) for name in units]
    return {
        f"{i}.prob": torch.tensor([3.0 if row[c] is Action.RUN else -3.0 for c in columns])
        for i, row in enumerate(reversed(subnet.actions))
    }


@pytest.mark.parametrize("steps", [6, 5])
@pytest.mark.parametrize("form", ["safetensors", "pt", "nested"])
def test_routers_come_back_as_the_table_they_were_made_of(
    pipelines: Callable[[str], Path], tmp_path: Path, form: str, steps: int
) -> None:
    opened = open_pipeline(pipelines("learned-variance"), weights=False)
    whole = full(opened, Options(steps=steps, granularity=Granularity.LAYER))
    draw = np.random.default_rng(steps).random((steps, len(whole.topology.blocks)))

    def action(step: int, block: int) -> Action:
        # The last step and every second one before it may reuse what the step before it computed.
        may = step > 0 and (steps - 1 - step) % 2 == 0
        is_unit = whole.topology.blocks[block].endswith((".attn1", ".ff"))
        return Action.REUSE if may and is_unit and draw[step, block] < 0.5 else Action.RUN

    original = with_actions(whole, action, method="learned")
    assert any(Action.REUSE in row for row in original.actions)
    path, state = tmp_path / f"routers.{form}", routers_of(original)
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"routers": state} if form == "nested" else state, path)
    found = imported(pipelines, "learned-variance", path, "learning-to-cache", Options(steps=steps))
    assert found.actions == original.actions


def test_the_threshold_is_of_the_sigmoid(tmp_path: Path) -> None:
    path = tmp_path / "routers.pt"
    # Scores 0.0474 and 0.5744.
    torch.save({f"{i}.prob": torch.tensor([-3.0, 0.3]) for i in range(3)}, path)
    last = [
        [read_routers(path, threshold).computes(2, unit) for unit in (0, 1)]
        for threshold in (0.04, 0.1, 0.6)
    ]
    assert last == [[True, True], [False, True], [False, False]]
    assert all(read_routers(path, 0.6).computes(1, unit) for unit in (0, 1))


class Planted:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def saved(content: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path)


BAD_ROUTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a function": (saved(Planted()), "is no state dict of tensors (UnpicklingError)"),
    "text": (lambda path: path.write_text("routers"), "is no state dict of tensors"),
    "a list": (saved([1]), "holds a list; expected a state dict"),
    "another key": (saved({"x": torch.zeros(2)}), "has the key 'x'; expected '<step>.prob'"),
    "no tensor": (saved({"0.prob": 1}), "has no finite numbers under '0.prob'"),
    "not a number": (
        saved({"0.prob": torch.tensor([float("nan")])}),
        "has no finite numbers under '0.prob'",
    ),
    "a step missing": (saved({"1.prob": torch.zeros(2)}), "for the steps [1] with [2] numbers"),
    "other widths": (
        saved({"0.prob": torch.zeros(2), "1.prob": torch.zeros(4)}),
        "for the steps [0, 1] with [2, 4] numbers",
    ),
    "nothing": (saved({}), "for the steps [] with [] numbers"),
}


@pytest.mark.parametrize("name", BAD_ROUTERS)
def test_bad_routers_are_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = BAD_ROUTERS[name]
    path = tmp_path / "routers.pt"
    make(path)
    with pytest.raises(SearchError) as caught:
        read_routers(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_routers_of_another_dit_are_refused(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "routers.pt"
    torch.save({f"{i}.prob": torch.zeros(8) for i in range(4)}, path)
    for name, message in (
        ("learned-variance", "have 8 units, but this DiTTransformer2DModel has 6 attentions"),
        ("three-levels", "have 8 units, but this UNet2DConditionModel has 0 attentions"),
    ):
        with pytest.raises(SearchError, match=message):
            imported(pipelines, name, path, "learning-to-cache", Options(steps=4))
    with pytest.raises(SearchError, match=r"the file has 4 steps, but .* makes 5 calls"):
        imported(pipelines, "learned-variance", path, "learning-to-cache", Options(steps=5))


MASKS: dict[str, object] = {
    "digits": "1110010\n",
    "list": [1, 1, 1, 0, 0, 1, 0],
    "object": {
        "steps_computation_mask": [1, 1, 1, 0, 0, 1, 0],
        "steps_computation_policy": "static",
    },
    "digits in an object": {"steps_computation_mask": "1110010"},
    "bins": {"compute_bins": [3, 1], "cache_bins": [2, 1]},
    "bins, cut": {"compute_bins": [3, 1, 2], "cache_bins": [2, 1], "total_steps": 7},
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_comes_back_in_every_form(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    content = MASKS[name]
    if isinstance(content, dict):
        content = content | {"Fn_compute_blocks": 2, "Bn_compute_blocks": 3}
    path = write(tmp_path / "mask", content)
    options = Options(steps=7)
    if not isinstance(content, dict):
        mask = read_mask(path)
        assert (mask.first, mask.last) == (8, 0)
        assert mask.computes == (True, True, True, False, False, True, False)
        return
    found = imported(pipelines, "shapes-dit", path, "cache-dit-mask", options)
    blocks = len(found.topology.blocks)
    middle = range(2, blocks - 3)
    assert middle
    digits = ""
    for row in found.actions:
        deltas = {block for block, action in enumerate(row) if action is Action.DELTA}
        assert deltas in (set(), set(middle))
        digits += "0" if deltas else "1"
    assert digits == "1110010"


@contextmanager
def cached_as_one_span(denoiser: nn.Module, mask: str, first: int, last: int) -> Iterator[None]:
    """What Cache-DiT does: one residual over all middle blocks, added to what comes out of the first."""
    blocks = list(denoiser.transformer_blocks)
    middle = blocks[first : len(blocks) - last]
    step, entered, residual = -1, torch.empty(0), torch.empty(0)

    def count(*_: Any) -> None:
        nonlocal step
        step += 1

    def enter(_: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal entered
        entered = args[0]

    def leave(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        nonlocal residual
        if mask[step] == "1":
            residual = output - entered
        return entered + residual

    handles = [
        denoiser.register_forward_pre_hook(count),
        middle[0].register_forward_pre_hook(enter),
        middle[-1].register_forward_hook(leave),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_an_imported_mask_does_what_cache_dit_does(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    opened = open_pipeline(pipelines("shapes-dit"))
    settings = {
        "steps_computation_mask": "110010",
        "Fn_compute_blocks": 1,
        "Bn_compute_blocks": 2,
    }
    path = write(tmp_path / "mask.json", settings)
    subnet = imported(pipelines, "shapes-dit", path, "cache-dit-mask", Options(steps=6))
    ask = request(opened, 6)
    with cached_as_one_span(opened.denoiser, "110010", 1, 2):
        expected = sample(opened, ask)
    found = sample(opened, ask, subnet)
    assert difference(found.latents[-1], expected.latents[-1]) <= 1e-5
    assert difference(found.latents[-1], sample(opened, ask).latents[-1]) > 1e-4


BAD_SETTINGS: dict[str, tuple[str, object, str]] = {
    "not JSON": ("deepcache", "{", "is not JSON (JSONDecodeError)"),
    "a list": ("deepcache", [1], "holds a list; give a JSON object"),
    "another key": ("deepcache", {"interval": 3}, "has ['interval']; use cache_interval,"),
    "no interval": (
        "deepcache",
        {"cache_interval": 0},
        "has cache_interval 0; give a whole number",
    ),
    "a fraction": ("deepcache", {"cache_branch_id": 1.5}, "has cache_branch_id 1.5; give a whole"),
    "truth": ("deepcache", {"cache_interval": True}, "has cache_interval True; give a whole"),
    "another mode": ("deepcache", {"skip_mode": "quad"}, "the skip_mode is 'quad'; only uniform"),
    "other digits": ("cache-dit-mask", "1102", "is no step mask; give one 1 (compute) or 0"),
    "words": ("cache-dit-mask", "mask", "is not JSON"),
    "no steps": ("cache-dit-mask", [], "is no step mask"),
    "truths": ("cache-dit-mask", [True, False], "is no step mask"),
    "starts cached": ("cache-dit-mask", "0111", "does not compute the first step"),
    "dynamic": (
        "cache-dit-mask",
        {"steps_computation_mask": "110", "steps_computation_policy": "dynamic"},
        "decides while it runs; only 'static' is a table",
    ),
    "half the bins": (
        "cache-dit-mask",
        {"compute_bins": [3]},
        "has ['compute_bins']; give either steps_computation_mask, or compute_bins and cache_bins",
    ),
    "both": (
        "cache-dit-mask",
        {"compute_bins": [3], "cache_bins": [1], "steps_computation_mask": "1110"},
        "give either steps_computation_mask, or",
    ),
    "short bins": (
        "cache-dit-mask",
        {"compute_bins": [3], "cache_bins": [1], "total_steps": 9},
        "has bins for 4 steps, but total_steps is 9",
    ),
    "negative bins": (
        "cache-dit-mask",
        {"compute_bins": [3, -1], "cache_bins": [1]},
        "has compute_bins -1; give a whole number from 0 on",
    ),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings_are_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    form, content, message = BAD_SETTINGS[name]
    with pytest.raises(SearchError) as caught:
        read_foreign(write(tmp_path / "settings.json", content), form)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask"
    path.write_bytes(b"\xff\xfe1")
    with pytest.raises(SearchError, match="is not UTF-8 text"):
        read_foreign(path, "cache-dit-mask")


def test_a_mask_that_caches_no_block_or_no_transformer_is_refused(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "mask", "1100")
    for name, message in (
        ("learned-variance", "the first 8 and the last 0 of 3 blocks are always computed"),
        ("shapes-sd", r"transformer blocks, but \['down_blocks"),
    ):
        with pytest.raises(SearchError, match=message):
            imported(pipelines, name, path, "cache-dit-mask", Options(steps=4))


def test_a_threshold_is_for_routers_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "mask", "1100")
    with pytest.raises(
        SearchError, match="--threshold is for learning-to-cache, not for cache-dit"
    ):
        read_foreign(path, "cache-dit-mask", 0.5)
    torch.save({"0.prob": torch.zeros(2)}, tmp_path / "routers.pt")
    with pytest.raises(SearchError, match=r"the threshold is 1.5; give a number between 0 and 1"):
        read_foreign(tmp_path / "routers.pt", "learning-to-cache", 1.5)
