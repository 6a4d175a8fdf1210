"""The parts around the denoiser: with their weights, and without any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from search.core.errors import SearchError
from search.methods.options import Options
from search.methods.registry import search_keeps
from search.model import parts
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.parts import load_unused
from search.model.recording import record_call
from tests.pipelines import RANDOM


def is_loaded(part: object) -> bool:
    return isinstance(part, torch.nn.Module) and not any(p.is_meta for p in part.parameters())


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_without_weights_nothing_is_loaded_and_the_denoiser_is_called_alike(
    pipelines: Callable[[str], Path], name: str
) -> None:
    empty, loaded = open_pipeline(pipelines(name), weights=False), open_pipeline(pipelines(name))
    assert not any(map(is_loaded, empty.pipe.components.values()))
    request = Request((empty.family.default_prompt,), steps=2, guidance=3.0, images=2)
    mine, its = record_call(empty, request), record_call(loaded, request)
    assert {k: (v.shape, v.dtype) for k, v in mine.conditions.items()} == {
        k: (v.shape, v.dtype) for k, v in its.conditions.items()
    }
    assert torch.equal(mine.sample, its.sample)
    assert torch.equal(mine.timestep, its.timestep)
    assert mine.arguments.keys() == its.arguments.keys()


def test_what_stands_around_the_denoiser_can_be_loaded_later(
    pipelines: Callable[[str], Path],
) -> None:
    opened, whole = (
        open_pipeline(pipelines("sdxl"), weights=False),
        open_pipeline(pipelines("sdxl")),
    )
    opened.load_around()
    assert not is_loaded(opened.denoiser)
    for name in ("vae", "text_encoder", "text_encoder_2"):
        mine, its = getattr(opened.pipe, name), getattr(whole.pipe, name)
        assert is_loaded(mine)
        assert all(
            torch.equal(a, b) for a, b in zip(mine.parameters(), its.parameters(), strict=True)
        )


@pytest.mark.parametrize(
    ("name", "method"),
    [("sd3", "full"), ("sd3", "fewer-steps"), ("three-levels", "deepcache")],
)
def test_a_fixed_schedule_loads_no_weights(
    pipelines: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str, method: str
) -> None:
    options = Options(steps=4, interval=2)
    [its] = search_keeps(open_pipeline(pipelines(name)), method, options, [0.5])
    monkeypatch.setattr(parts, "_model", lambda *_: pytest.fail("weights were loaded"))
    [mine] = search_keeps(open_pipeline(pipelines(name), weights=False), method, options, [0.5])
    assert mine == its


def test_a_part_that_is_loaded_later_comes_from_no_other_library(tmp_path: Path) -> None:
    index = {"image_encoder": ["os", "path"]}
    with pytest.raises(SearchError, match="'path' of 'os', but parts are taken from diffusers and"):
        load_unused(tmp_path, index, "image_encoder")
