"""DeepFloyd IF with a picture: U-Nets on pixels."""

from __future__ import annotations

from functools import partial

from diffusers import (
    DDPMScheduler,
    DiffusionPipeline,
    IFImg2ImgPipeline,
    IFInpaintingPipeline,
    IFInpaintingSuperResolutionPipeline,
    IFSuperResolutionPipeline,
    UNet2DConditionModel,
)

from benchmarks.families import image_t5
from benchmarks.families.pictures import mask, picture
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights


def first_stage(cls: type[DiffusionPipeline]) -> DiffusionPipeline:
    """Begins from the picture with noise."""
    return cls(**image_t5.deepfloyd_if().components, requires_safety_checker=False)


def second_stage(cls: type[DiffusionPipeline]) -> DiffusionPipeline:
    """The small picture with noise is three channels; its noise level is the class."""
    parts = image_t5.deepfloyd_if().components
    settings = {k: v for k, v in parts["unet"].config.items() if not k.startswith("_")}
    settings |= {"in_channels": 6, "class_embed_type": "timestep"}
    pipe = cls(
        **{**parts, "unet": UNet2DConditionModel(**settings)},
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        requires_safety_checker=False,
    )
    return with_random_weights(pipe, 341)


def toy(cls: type[DiffusionPipeline], **call: object) -> Toy:
    """A toy of either stage."""
    stage = second_stage if cls.__name__.endswith("SuperResolutionPipeline") else first_stage
    return Toy(cls.__name__, partial(stage, cls), {**call, "clean_caption": False})


_LARGE = {"height": 16, "width": 16}
_FROM = {"image": picture(16), "strength": 0.8}
_PAINT = {**_FROM, "mask_image": mask(16)}

TOYS = (
    toy(IFImg2ImgPipeline, **_FROM),
    toy(IFInpaintingPipeline, **_PAINT),
    toy(IFSuperResolutionPipeline, **_LARGE, image=picture(8)),
    toy(IFInpaintingSuperResolutionPipeline, **_PAINT, original_image=picture(8)),
)
