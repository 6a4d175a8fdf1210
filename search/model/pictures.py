"""Pictures that a pipeline is given: which it takes, examples of them, and how its processors see them."""

from __future__ import annotations

import inspect
import itertools
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders import vae
from diffusers.models.embeddings import MultiIPAdapterImageProjection

from search.core.errors import SearchError
from search.core.pictures import example_picture
from search.core.prompt import Drawn, PromptField, PromptInput
from search.model.entry import noise_replaced
from search.model.parts_in_place import with_parts
from search.model.replaced import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from PIL import Image
    from torch import Tensor

    from search.model.family import Request

SOURCES = {"image": "image", "control_image": "image", "mask_image": "mask"}
"""Arguments of a pipeline's call that take pictures -> which of a run's pictures that is."""
IP_IMAGE = "ip-image"
"""The picture that an IP-Adapter is given."""
_EXTRACTOR = "feature_extractor"
_BICUBIC = 3


def sources_of(pipe: Any) -> dict[str, str]:
    """The arguments of a pipeline's call that need a picture -> which of a run's pictures it is.

    Raises:
        SearchError: it needs more pictures than a run has.
    """
    takes = inspect.signature(inspect.unwrap(type(pipe).__call__)).parameters
    found = {
        name: source
        for name, source in SOURCES.items()
        if name in takes and not _is_optional(takes[name].annotation)
    }
    if len(set(found.values())) < len(found):
        msg = (
            f"{type(pipe).__name__} takes both an image and a control_image, but a run has one picture "
            "and one mask; such pipelines are not supported"
        )
        raise SearchError(msg)
    return {**found, "ip_adapter_image": IP_IMAGE} if _has_ip_adapter(pipe) else found


def _has_ip_adapter(pipe: Any) -> bool:
    """Whether an IP-Adapter stands beside the weights of a pipeline's U-Net."""
    projection = getattr(getattr(pipe, "unet", None), "encoder_hid_proj", None)
    return isinstance(projection, MultiIPAdapterImageProjection)


def require_no_pictures(pipe: Any, who: str) -> None:
    """Refuse to sample with a pipeline that needs pictures."""
    if sources_of(pipe):
        msg = (
            f"{who} samples with the pipeline, and a {type(pipe).__name__} needs pictures for that, which are "
            "not given here; use search --method deepcache, fewer-steps, random or full, which sample nothing"
        )
        raise SearchError(msg)


def _is_optional(annotation: Any) -> bool:
    """Whether an argument may be left out, as its type says."""
    return any(word in str(annotation) for word in ("None", "Optional"))


def picture_arguments(pipe: Any, request: Request) -> dict[str, Any]:
    """The pictures of a request as its pipeline takes them; examples where the request has none."""
    found: dict[str, Any] = {
        name: request.pictures[source] if request.pictures else _example(pipe, request, source)
        for name, source in sources_of(pipe).items()
    }
    # Where to begin is the SubNet's affair.
    return {**found, "strength": 1.0} if found else {}


def example_pictures(pipe: Any, request: Request) -> dict[str, Image.Image]:
    """One picture for each that the pipeline needs."""
    return {source: _example(pipe, request, source) for source in sources_of(pipe).values()}


def _example(pipe: Any, request: Request, source: str) -> Image.Image:
    size = request.size or _default_size(pipe)
    return example_picture(size[0], size[1], source)


def _default_size(pipe: Any) -> tuple[int, int]:
    """Height and width of the pictures that a pipeline makes unless it is told otherwise."""
    denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    size = getattr(pipe, "default_sample_size", None) or getattr(
        getattr(denoiser, "config", None), "sample_size", None
    )
    if size is None:
        msg = f"{type(pipe).__name__} has no size of its own; give --height and --width"
        raise SearchError(msg)
    height, width = (size, size) if isinstance(size, int) else size
    return height * pipe.vae_scale_factor, width * pipe.vae_scale_factor


@contextmanager
def pictures_and_noise(
    pipe: Any, request: Request, read: Callable[[PromptInput], Tensor]
) -> Iterator[None]:
    """While open, pictures and the noise that autoencoders draw are `read`."""
    is_begun, count = [False], itertools.count()
    names: dict[tuple[str, tuple[int, ...]], str] = {}

    def picture(source: str, channels: int, height: int, width: int, shortest: int = 0) -> Tensor:
        dims = (1, channels, height, width)
        again = sum(source == known for known, _ in names)
        name = names.setdefault((source, dims), f"{source}_{again}" if again else source)
        return read(PromptInput(name, source, PromptField.PICTURE, dims=dims, shortest=shortest))

    def initial(shape: tuple[int, ...], *_: Any, **__: Any) -> Tensor:
        is_begun[0] = True
        return torch.zeros(tuple(shape))

    def noise(shape: tuple[int, ...], generator: Any = None, **_: Any) -> Tensor:
        when = Drawn.AFTER if is_begun[0] else Drawn.BEFORE
        drawn = Drawn.APART if generator is None else when
        name = f"noise_{next(count)}"
        return read(PromptInput(name, "seed", PromptField.NOISE, dims=tuple(shape), drawn=drawn))

    part = getattr(pipe, "vae", None)
    # It has its dtype, and a trace cannot change it.
    still = nullcontext() if part is None else with_parts(part, to=lambda *_, **__: part)
    pictures = request.pictures or {}
    extracted = {}
    if IP_IMAGE in pictures:
        extracted[_EXTRACTOR] = _Extractor(getattr(pipe, _EXTRACTOR), pictures[IP_IMAGE], picture)
    with (
        still,
        with_parts(pipe, **extracted),
        noise_replaced(pipe, initial),
        replaced(vae, "randn_tensor", noise),
        _pictures_read(pictures, picture),
    ):
        yield


class _Extracted(NamedTuple):
    """What a feature extractor returns."""

    pixel_values: Tensor


class _Extractor:
    """A stand-in for the feature extractor of CLIP, which sees what is `read` in the place of a picture."""

    def __init__(self, own: Any, picture: Image.Image, read: Callable[..., Tensor]) -> None:
        self._own, self._picture, self._read = own, picture, read

    def __call__(self, images: Any, **options: Any) -> Any:
        """See the class."""
        if images is not self._picture:
            return self._own(images, **options)
        own = self._own
        _require_middle(own)
        height, width = own.crop_size["height"], own.crop_size["width"]
        seen = self._read(IP_IMAGE, 3, height, width, own.size["shortest_edge"])
        mean, std = (
            torch.tensor(each).reshape(3, 1, 1) for each in (own.image_mean, own.image_std)
        )
        return _Extracted((seen - mean) / std)


def _require_middle(extractor: Any) -> None:
    """Refuse a feature extractor that does anything else than to resize pictures and to take their middle."""
    steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
    does_all = all(getattr(extractor, step, False) for step in steps)
    size = dict(extractor.size) if does_all else {}
    fits = [*size] == ["shortest_edge"] and max(dict(extractor.crop_size).values()) <= min(
        size.values()
    )
    if not fits or extractor.resample != _BICUBIC or abs(255 * extractor.rescale_factor - 1) > 1e-6:
        msg = (
            f"the {type(extractor).__name__} of this pipeline does not resize the shorter edge of pictures "
            "bicubically and take their middle, as that of CLIP does; such pipelines are not supported"
        )
        raise SearchError(msg)


@contextmanager
def _pictures_read(
    pictures: Mapping[str, Image.Image], read: Callable[..., Tensor]
) -> Iterator[None]:
    """While open, processors of pictures get `read(source, channels, height, width)` instead of pixels.

    `read` gives `[1, channels, height, width]` in 0..1. Who looks at the pixels of `pictures` otherwise
    gets a `SearchError`.
    """
    original = VaeImageProcessor.preprocess

    def preprocess(processor: Any, image: Any, *args: Any, **options: Any) -> Any:
        given = inspect.signature(original).bind(processor, image, *args, **options).arguments
        one = image[0] if isinstance(image, list) and len(image) == 1 else image
        source = next((name for name, known in pictures.items() if known is one), None)
        if source is None:
            return cast("Tensor", original(processor, image, *args, **options))
        _require_plain(processor, given)
        channels = 1 if processor.config.do_convert_grayscale else 3
        size = processor.get_default_height_width(one, given.get("height"), given.get("width"))
        return cast("Tensor", original(processor, read(source, channels, *size), *size))

    def binarize(_: Any, image: Tensor) -> Any:
        return (image >= 0.5).to(image)

    with (
        replaced(VaeImageProcessor, "preprocess", preprocess),
        replaced(VaeImageProcessor, "binarize", binarize),
        _unseen(pictures),
    ):
        yield


def _require_plain(processor: Any, given: Mapping[str, Any]) -> None:
    """Refuse what a processor does to pictures beyond resizing them."""
    config = processor.config
    cropped = given.get("crops_coords") or given.get("resize_mode", "default") != "default"
    latents = config.vae_latent_channels in (1, 3)
    if cropped or latents or config.resample != "lanczos" or config.reducing_gap is not None:
        msg = (
            f"the {type(processor).__name__} of this pipeline does more to pictures than Lanczos "
            "resizing and normalisation; such pipelines are not supported"
        )
        raise SearchError(msg)


@contextmanager
def _unseen(pictures: Mapping[str, Image.Image]) -> Iterator[None]:
    """While open, nobody sees the pixels of `pictures`."""

    def load() -> None:
        msg = (
            "the pipeline reads a picture's pixels itself, not through diffusers' "
            "VaeImageProcessor; such pipelines are not supported"
        )
        raise SearchError(msg)

    for picture in pictures.values():
        vars(picture)["load"] = load
    try:
        yield
    finally:
        for picture in pictures.values():
            del vars(picture)["load"]
