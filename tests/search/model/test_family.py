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
    with pytest.raises(SearchError, match=r"knows .*, ElsewherePipeline, FluxPipeline"):
        family_of("NowherePipeline")


def test_an_unknown_pipeline_is_told_how_to_add_a_family() -> None:
    with pytest.raises(SearchError, match=r"'NowherePipeline'.* docs/add-a-family\.md says how"):
        family_of("NowherePipeline")
