"""FLUX.2, Qwen-Image, Z-Image, Chroma and Sana with a picture, a mask, a ControlNet."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from diffusers import (
    ChromaImg2ImgPipeline,
    CogView4ControlPipeline,
    CogView4Transformer2DModel,
    DiffusionPipeline,
    Flux2KleinInpaintPipeline,
    Flux2KleinKVPipeline,
    QwenImageControlNetInpaintPipeline,
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
    QwenImageImg2ImgPipeline,
    QwenImageInpaintPipeline,
    SanaControlNetModel,
    SanaControlNetPipeline,
    ZImageControlNetInpaintPipeline,
    ZImageControlNetModel,
    ZImageControlNetPipeline,
    ZImageImg2ImgPipeline,
    ZImageInpaintPipeline,
)

from benchmarks.families import image_llm, image_t5, texts
from benchmarks.families.image_llm import HEADS
from benchmarks.families.pictures import mask, picture
from benchmarks.families.stable_diffusion import strong
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights

if TYPE_CHECKING:
    from diffusers import ModelMixin


def flux2_reference() -> DiffusionPipeline:
    """FLUX.2 dev with a picture whose tokens follow the latents."""
    return image_llm.flux2()


def flux2_klein_reference() -> DiffusionPipeline:
    """FLUX.2 klein with a picture whose tokens follow the latents."""
    return image_llm.flux2_klein()


def flux2_klein_inpaint() -> DiffusionPipeline:
    """What the mask leaves out is put back after each step."""
    parts = image_llm.flux2_klein().components
    return Flux2KleinInpaintPipeline(**parts, is_distilled=False)


def flux2_klein_cached() -> DiffusionPipeline:
    """Keys and values of the picture are made in the first step and kept."""
    return Flux2KleinKVPipeline(**image_llm.flux2_klein().components)


def qwen_image_to_image() -> DiffusionPipeline:
    """Begins from the picture with noise."""
    return QwenImageImg2ImgPipeline(**image_llm.qwen_image().components)


def qwen_inpaint() -> DiffusionPipeline:
    """What the mask leaves out is put back after each step."""
    return QwenImageInpaintPipeline(**image_llm.qwen_image().components)


def qwen_controlnet(more: int = 0) -> QwenImageControlNetModel:
    """One block; `more` channels per token for what is not picture."""
    return QwenImageControlNetModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        **HEADS,
        joint_attention_dim=texts.WIDTH,
        axes_dims_rope=(4, 6, 6),
        extra_condition_channels=more,
    )


def qwen_beside_controlnet() -> DiffusionPipeline:
    """A ControlNet beside the transformer, called for each half."""
    parts = image_llm.qwen_image().components
    pipe = QwenImageControlNetPipeline(**parts, controlnet=qwen_controlnet())
    return strong(with_random_weights(pipe, 251), "controlnet")


def qwen_beside_controlnet_inpaint() -> DiffusionPipeline:
    """A ControlNet that is told masked picture and mask."""
    parts = image_llm.qwen_image().components
    pipe = QwenImageControlNetInpaintPipeline(**parts, controlnet=qwen_controlnet(4))
    return strong(with_random_weights(pipe, 252), "controlnet")


def z_image_to_image() -> DiffusionPipeline:
    """Begins from the picture with noise."""
    return ZImageImg2ImgPipeline(**image_llm.z_image().components)


def z_image_inpaint() -> DiffusionPipeline:
    """What the mask leaves out is put back after each step."""
    return ZImageInpaintPipeline(**image_llm.z_image().components)


def z_controlnet(channels: int) -> ZImageControlNetModel:
    """Beside the first of two blocks; shares the embedders of the transformer."""
    return ZImageControlNetModel(
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=channels,
        add_control_noise_refiner="control_noise_refiner",
        dim=32,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
    )


def z_image_beside_controlnet() -> DiffusionPipeline:
    """A ControlNet beside the transformer."""
    parts = image_llm.z_image().components
    pipe = ZImageControlNetPipeline(**parts, controlnet=z_controlnet(4))
    return strong(with_random_weights(pipe, 253), "controlnet")


def z_image_beside_controlnet_inpaint() -> DiffusionPipeline:
    """A ControlNet that is told control picture, masked picture and mask."""
    parts = image_llm.z_image().components
    pipe = ZImageControlNetInpaintPipeline(**parts, controlnet=z_controlnet(9))
    return strong(with_random_weights(pipe, 254), "controlnet")


def chroma_image_to_image() -> DiffusionPipeline:
    """Begins from the picture with noise."""
    return ChromaImg2ImgPipeline(**image_t5.chroma().components)


def sana_beside_controlnet() -> DiffusionPipeline:
    """A ControlNet of one block beside the transformer."""
    parts = image_llm.sana().components
    beside = SanaControlNetModel(**_same(parts["transformer"], SanaControlNetModel, num_layers=1))
    pipe = SanaControlNetPipeline(**parts, controlnet=beside)
    return strong(with_random_weights(pipe, 255), "controlnet")


def _same(network: ModelMixin, cls: type[ModelMixin], **changed: object) -> dict[str, object]:
    """The settings of a network that `cls` takes too."""
    takes = inspect.signature(cls).parameters
    return {k: v for k, v in network.config.items() if k in takes} | changed


def cogview4_control() -> DiffusionPipeline:
    """A network that is told the control picture's latents."""
    parts = image_llm.cogview4().components
    wider = {"in_channels": 8, "out_channels": 4}
    settings = _same(parts["transformer"], CogView4Transformer2DModel, **wider)
    wide = CogView4Transformer2DModel(**settings)
    return with_random_weights(CogView4ControlPipeline(**{**parts, "transformer": wide}), 256)


SIZE = {"height": 32, "width": 32, "max_sequence_length": 48}
_KLEIN = {**SIZE, "text_encoder_out_layers": (1, 2)}
_FROM = {**SIZE, "image": picture(), "strength": 0.6}
_PAINT = {**_FROM, "mask_image": mask()}
_CONTROL = {**SIZE, "control_image": picture(seed=1)}
_SEEN = {"image": picture(64)}

TOYS = (
    Toy("Flux2Pipeline", flux2_reference, {**_KLEIN, "max_sequence_length": 64, **_SEEN}),
    Toy("Flux2KleinPipeline", flux2_klein_reference, {**_KLEIN, **_SEEN}),
    Toy("Flux2KleinInpaintPipeline", flux2_klein_inpaint, {**_KLEIN, **_PAINT}),
    Toy("Flux2KleinKVPipeline", flux2_klein_cached, {**_KLEIN, **_SEEN}),
    Toy("QwenImageImg2ImgPipeline", qwen_image_to_image, _FROM),
    Toy("QwenImageInpaintPipeline", qwen_inpaint, _PAINT),
    Toy("QwenImageControlNetPipeline", qwen_beside_controlnet, _CONTROL),
    Toy(
        "QwenImageControlNetInpaintPipeline",
        qwen_beside_controlnet_inpaint,
        {**_CONTROL, "control_mask": mask()},
    ),
    Toy("ZImageImg2ImgPipeline", z_image_to_image, _FROM),
    Toy("ZImageInpaintPipeline", z_image_inpaint, _PAINT),
    Toy("ZImageControlNetPipeline", z_image_beside_controlnet, _CONTROL),
    Toy(
        "ZImageControlNetInpaintPipeline",
        z_image_beside_controlnet_inpaint,
        {**_CONTROL, "image": picture(), "mask_image": mask()},
    ),
    Toy("ChromaImg2ImgPipeline", chroma_image_to_image, _FROM),
    Toy(
        "SanaControlNetPipeline",
        sana_beside_controlnet,
        {**_CONTROL, "use_resolution_binning": False},
    ),
    Toy("CogView4ControlPipeline", cogview4_control, _CONTROL),
)
