"""All toys that make a picture from text, and the classes that have none."""

from __future__ import annotations

from benchmarks.families import (
    image_cascade,
    image_classic,
    image_glm,
    image_llm,
    image_llm_other,
    image_older,
    image_perturbed,
    image_qwen,
    image_t5,
)

TOYS = (
    *image_classic.TOYS,
    *image_llm.TOYS,
    *image_qwen.TOYS,
    *image_llm_other.TOYS,
    *image_glm.TOYS,
    *image_t5.TOYS,
    *image_cascade.TOYS,
    *image_perturbed.TOYS,
    *image_older.TOYS,
)

NOT_BUILT = {
    "Cosmos2TextToImagePipeline": "its safety checker needs the package cosmos_guardrail",
    "OmniGenPipeline": "its processor needs the package torchvision",
    "OnnxStableDiffusionPipeline": "its parts are ONNX graphs already",
    "StableDiffusionOnnxPipeline": "its parts are ONNX graphs already",
    "PRXPipeline": "it needs the package ftfy, and diffusers 0.42.1 cannot load its T5GemmaEncoder",
    "PRXPixelPipeline": "it needs the package ftfy",
    "QwenImage21Pipeline": "its processor needs the package torchvision",
    "ShapEPipeline": "it makes shapes in space, not pictures",
    "StableCascadeCombinedPipeline": "diffusers 0.42.1 saves its PaellaVQModel but cannot load it",
    "StableCascadeDecoderPipeline": "diffusers 0.42.1 saves its PaellaVQModel but cannot load it",
}
"""Class -> why there is no toy of it. Those that diffusers calls deprecated are left out too."""
