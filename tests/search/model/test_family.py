"""Finding the family of a pipeline, those of other packages included."""

from __future__ import annotations

from importlib import metadata

import pytest

from search.core.errors import SearchError
from search.model.families.text_to_image import TextToImage
from search.model.family import ENTRY_POINTS, FAMILIES, family_of


class Elsewhere(TextToImage):
    pipeline = "ElsewherePipeline"


def test_each_family_names_its_own_pipeline() -> None:
    assert {name: family_of(name).pipeline for name in FAMILIES} == {
        name: name for name in FAMILIES
    }


def test_another_package_adds_a_family_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = metadata.EntryPoint("ElsewherePipeline", f"{__name__}:Elsewhere", ENTRY_POINTS)
    monkeypatch.setattr(
        metadata, "entry_points", lambda *, group: [point] if group == ENTRY_POINTS else []
    )
    assert isinstance(family_of("ElsewherePipeline"), Elsewhere)


def test_any_class_of_diffusers_has_a_family() -> None:
    assert family_of("FluxPipeline").component == "transformer"
    assert family_of("StableDiffusionPipeline").component == "unet"
    assert family_of("DiTPipeline").default_prompt == "0"


def test_a_denoiser_of_any_name_is_found_among_the_parts() -> None:
    parts = {
        "_class_name": "MyPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "dit": ["my_models", "MyTransformerModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    assert family_of("MyPipeline", parts).component == "dit"


def test_a_pipeline_whose_denoiser_cannot_be_told_is_told_how_to_name_it() -> None:
    parts = {"vae": ["diffusers", "AutoencoderKL"]}
    with pytest.raises(SearchError, match=r"'?none'? could be its denoiser; .*add-a-family\.md"):
        family_of("MyPipeline", parts)


def test_an_unknown_class_is_refused_by_name() -> None:
    with pytest.raises(
        SearchError, match=r"'NowherePipeline'; update diffusers, .*add-a-family\.md"
    ):
        family_of("NowherePipeline")
