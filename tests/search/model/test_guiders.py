"""Guiders of diffusers."""

from __future__ import annotations

from types import SimpleNamespace

from diffusers.guiders import AdaptiveProjectedMixGuidance, ClassifierFreeGuidance

from search.model.guiders import without_memory


def test_what_has_a_memory_is_named() -> None:
    forgetful = AdaptiveProjectedMixGuidance(adaptive_projected_guidance_momentum=None)
    parts = {"guider": AdaptiveProjectedMixGuidance(), "ocr_guider": forgetful, "vae": None}
    advice = without_memory(SimpleNamespace(components=parts))
    assert advice == 'make "adaptive_projected_guidance_momentum" null in guider/guider_config.json'
    assert not without_memory(SimpleNamespace(components={"guider": ClassifierFreeGuidance()}))
