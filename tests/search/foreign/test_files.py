"""Tables of DeepCache, Learning-to-Cache and Cache-DiT: there and back, and what is no such table."""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

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
from search.foreign.router_file import SIZE_LIMIT, read_routers
from search.methods import schedules
from search.methods.options import Options
from search.methods.whole import full
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.reference import sample
from tests.search.model.test_reference import difference


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
    asked = {"cache_interval": interval, "cache_branch_id": branch}
    expected = schedules.deepcache(
        full(opened, Options(steps=10)), interval=interval, branch=branch
    )
    for content in (asked, helper.params):
        path = write(tmp_path / "params.json", content)
        found = imported(pipelines, "shapes-sd", path, "deepcache", Options(steps=10))
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
@pytest.mark.parametrize("form", ["safetensors", "pt", "checkpoint"])
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
        torch.save({"routers": state} if form == "checkpoint" else state, path)
    found = imported(pipelines, "learned-variance", path, "learning-to-cache", Options(steps=steps))
    assert found.actions == original.actions


class Router(nn.Module):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.prob = nn.Parameter(logits)


def write_checkpoint(path: Path, logits: Tensor) -> Path:
    """What DiT/train_router.py of horseee/learning-to-cache saves, trained on a GPU.

    Args:
        path: where to.
        logits: `[steps, units]`, step 0 the last of the sampler.
    """
    routers = nn.ModuleList(Router(row) for row in logits)
    optimiser = torch.optim.AdamW(routers.parameters(), lr=0.001, weight_decay=0)
    sum(router.prob.sum() * 0 for router in routers).backward()
    optimiser.step()
    args = argparse.Namespace(
        data_path="imagenet", model="DiT-XL/2", image_size=256, l1=5e-6, wandb=True, ckpt=None
    )
    content = {"routers": routers.state_dict(), "opt": optimiser.state_dict(), "args": args}
    with mock.patch("torch.serialization.location_tag", return_value="cuda:0"):
        torch.save(content, path)
    return path


@pytest.mark.parametrize(("steps", "kept", "units"), [(20, 312, 560), (50, 736, 1400)])
def test_a_published_checkpoint_keeps_as_many_units_as_its_authors_count(
    tmp_path: Path, steps: int, kept: int, units: int
) -> None:
    """As `load_ranking` in DiT/models/dynamic_models.py counts, on the 28 blocks of DiT-XL/2."""
    draw = torch.Generator().manual_seed(steps)
    logits = torch.randn(steps, 56, generator=draw)  # of odd steps nothing was learned
    order = torch.randperm(units, generator=draw)
    learned = torch.where(order < kept, -2.19, -2.2)  # scores .1006 and .0998
    logits[::2] = learned.reshape(steps // 2, 56)
    path = write_checkpoint(tmp_path / "router.pt", logits)
    routers = read_routers(path)
    reading = range(steps - 1, -1, -2)
    assert sum(routers.computes(step, unit) for step in reading for unit in range(56)) == kept
    assert sum((torch.sigmoid(router) > 0.1).sum() for router in logits[::2]) == kept
    assert all(
        routers.computes(steps - 1 - idx, unit) == (idx % 2 == 1 or score > 0.1)
        for idx, row in enumerate(torch.sigmoid(logits).tolist())
        for unit, score in enumerate(row)
    )


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


def zipped(path: Path) -> None:
    """A small file that unpacks to more than routers have."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(SIZE_LIMIT + 1))


BAD_ROUTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a function": (saved(Planted()), "names 'print', which no router needs, so it is not read"),
    "a function beside routers": (
        saved({"routers": {"0.prob": torch.zeros(2)}, "args": Planted()}),
        "names 'print', which no router needs",
    ),
    "another class in args": (
        saved({"routers": {"0.prob": torch.zeros(2)}, "args": argparse.Namespace(at=Path("x"))}),
        "names 'pathlib.PosixPath', which no router needs",
    ),
    "a model beside routers": (
        saved({"routers": {"0.prob": torch.zeros(2)}, "model": {}}),
        "has ['model'] besides its routers; expected routers, opt, args",
    ),
    "too large when unpacked": (zipped, "bytes, but routers have at most"),
    "a tensor larger than the file": (
        saved({"0.prob": torch.zeros(1).expand(2**40)}),
        "has no finite numbers under '0.prob'",
    ),
    "text": (lambda path: path.write_text("routers"), "is not a state dict of tensors"),
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


STATIC = {"steps_computation_policy": "static"}
MASKS: dict[str, object] = {
    "digits": "1110010\n",
    "list": [1, 1, 1, 0, 0, 1, 0],
    "object": {"steps_computation_mask": [1, 1, 1, 0, 0, 1, 0]},
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
        content = content | STATIC | {"Fn_compute_blocks": 2, "Bn_compute_blocks": 3}
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


def published_config(**changes: object) -> str:
    """As examples/configs/cache.yaml of vipshop/cache-dit, made static and without a calibrator."""
    settings = {
        "max_warmup_steps": 8,
        "warmup_interval": 2,
        "max_cached_steps": -1,
        "max_continuous_cached_steps": 2,
        "Fn_compute_blocks": 1,
        "Bn_compute_blocks": 0,
        "num_inference_steps": 28,
        "steps_computation_mask": "fast",
        "steps_computation_policy": "static",
        "residual_diff_threshold": 0.12,
        "enable_taylorseer": "false",
        "taylorseer_order": 1,
    }
    lines = [f"  {name}: {value}" for name, value in (settings | changes).items() if value != ""]
    return "\n".join(["cache_config:", *lines, "parallelism_config:", "  ulysses_size: auto", ""])


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("slow", "1111111101110011100110010001"),
        ("medium", "1111110110001100011000110001"),
        ("fast", "1111110100010000100000100001"),
        ("ultra", "1111001000001000000100000001"),
        ("[1, 1, 0, 1]", "1101"),
    ],
)
def test_a_published_configuration_is_read(tmp_path: Path, name: str, digits: str) -> None:
    """The named masks are written out from `steps_mask` in cache_interface.py of that project."""
    text = published_config(steps_computation_mask=name, num_inference_steps=len(digits))
    mask = read_mask(write(tmp_path / "cache.yaml", text))
    assert "".join(str(int(each)) for each in mask.computes) == digits
    assert (mask.first, mask.last) == (1, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps_computation_policy": ""}, "has no steps_computation_policy, and Cache-DiT's default"),
        ({"steps_computation_policy": "dynamic"}, "decides while it runs; only 'static' is a table"),
        ({"enable_taylorseer": "true"}, "has enable_taylorseer, which extrapolates cached residuals"),
        ({"num_inference_steps": 50}, "asks for the mask 'fast' of 50 steps, but only those of 28"),
        ({"num_inference_steps": ""}, "asks for the mask 'fast' of None steps"),
        ({"steps_computation_mask": "[1, 0]"}, "a mask of 2 steps, but num_inference_steps is 28"),
        ({"steps_computation_mask": ""}, "give either steps_computation_mask, or compute_bins"),
        ({"steps_computation_mask": "quick"}, "is not a step mask"),
        ({"force_refresh_step_hint": 4}, "has ['force_refresh_step_hint']; use"),
        ({"Fn_compute_blocks": "&a 1", "Bn_compute_blocks": "*a"}, "has YAML aliases"),
        ({"Fn_compute_blocks": "!!python/name:os.system ''"}, "is neither JSON nor YAML (Constructor"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_no_table_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(SearchError) as caught:
        read_mask(write(tmp_path / "cache.yaml", published_config(**changes)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@contextmanager
def cached_as_one_span(denoiser: nn.Module, mask: str, first: int, last: int) -> Iterator[None]:
    """What Cache-DiT does: one residual per stream over all middle blocks, added to what enters them."""
    blocks = [*denoiser.transformer_blocks, *getattr(denoiser, "single_transformer_blocks", ())]
    middle = blocks[first : len(blocks) - last]
    step, entered, residual = -1, list[Tensor](), list[Tensor]()

    def count(*_: Any) -> None:
        nonlocal step
        step += 1

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal entered
        given = dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False)) | kwargs
        entered = [given["hidden_states"], given["encoder_hidden_states"]]

    def leave(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        nonlocal residual
        text, picture = output if isinstance(output, tuple) else (None, output)
        if mask[step] == "1":
            residual = [
                b - a for a, b in zip(entered, (picture, text), strict=True) if b is not None
            ]
        found = [a + r for a, r in zip(entered, residual, strict=False)]
        return (
            (found[1] if len(found) > 1 else None, found[0])
            if isinstance(output, tuple)
            else found[0]
        )

    handles = [
        denoiser.register_forward_pre_hook(count),
        middle[0].register_forward_pre_hook(enter, with_kwargs=True),
        middle[-1].register_forward_hook(leave),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("shapes-dit", 1, 2), ("flux-dev", 1, 1), ("sd3", 1, 0)],
)
def test_an_imported_mask_does_what_cache_dit_does(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str, first: int, last: int
) -> None:
    opened = open_pipeline(pipelines(name))
    settings = STATIC | {
        "steps_computation_mask": "110010",
        "Fn_compute_blocks": first,
        "Bn_compute_blocks": last,
    }
    path = write(tmp_path / "mask.json", settings)
    subnet = imported(pipelines, name, path, "cache-dit-mask", Options(steps=6))
    noise = torch.randn((1, *subnet.binding.latent_shape), generator=torch.manual_seed(3))
    ask = Request((opened.family.default_prompt,), 6, 2.0, latents=noise)
    with cached_as_one_span(opened.denoiser, "110010", first, last):
        expected = sample(opened, ask)
    found = sample(opened, ask, subnet)
    assert difference(found.latents[-1], expected.latents[-1]) <= 1e-5
    assert difference(found.latents[-1], sample(opened, ask).latents[-1]) > 1e-4


@pytest.mark.parametrize("name", ["flux-dev", "sd3"])
def test_the_documented_mask_of_28_steps_is_taken_on_blocks_of_two_streams(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    path = write(tmp_path / "cache.yaml", published_config())
    found = imported(pipelines, name, path, "cache-dit-mask", Options(steps=28))
    whole = len(found.topology.blocks)
    cached = ["0" if row.count(Action.DELTA) == whole - 1 else "1" for row in found.actions]
    assert "".join(cached) == "1111110100010000100000100001"


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
    "a branch said twice": (
        "deepcache",
        {"cache_branch_id": 1, "cache_layer_id": 1},
        "give either cache_branch_id, or cache_block_id and a cache_layer_id below 3",
    ),
    "a layer too high": ("deepcache", {"cache_layer_id": 3}, "a cache_layer_id below 3"),
    "another mode": ("deepcache", {"skip_mode": "quad"}, "the skip_mode is 'quad'; only uniform"),
    "other digits": ("cache-dit-mask", "1102", "is not a step mask; give one 1 (compute) or 0"),
    "words": ("cache-dit-mask", "mask", "is not a step mask"),
    "half a list": ("cache-dit-mask", "[1, 0", "is neither JSON nor YAML (ParserError)"),
    "no steps": ("cache-dit-mask", [], "is not a step mask"),
    "truths": ("cache-dit-mask", [True, False], "is not a step mask"),
    "starts cached": ("cache-dit-mask", "0111", "does not compute the first step"),
    "dynamic": (
        "cache-dit-mask",
        {"steps_computation_mask": "110", "steps_computation_policy": "dynamic"},
        "which decides while it runs; only 'static' is a table",
    ),
    "no policy": (
        "cache-dit-mask",
        {"compute_bins": [3], "cache_bins": [1]},
        "has no steps_computation_policy, and Cache-DiT's default is 'dynamic'",
    ),
    "a section that is none": (
        "cache-dit-mask",
        {"cache_config": [1]},
        "has a list as cache_config; expected settings by name",
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
        STATIC | {"compute_bins": [3], "cache_bins": [1], "total_steps": 9},
        "has bins for 4 steps, but total_steps is 9",
    ),
    "negative bins": (
        "cache-dit-mask",
        STATIC | {"compute_bins": [3, -1], "cache_bins": [1]},
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
        ("shapes-sd", r"over the 19 blocks .* do not emit what can be added to their input"),
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
