"""The parts of a pipeline beside its denoiser: with the weights that diffusers loads, or without any."""

from __future__ import annotations

import functools
import importlib
import json
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.vae import (
    AutoencoderMixin,
    DiagonalGaussianDistribution,
    EncoderOutput,
)
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import nn

from search.core.errors import SearchError
from search.model.checkpoint_files import DIFFUSERS, TRANSFORMERS, WeightFiles, checkpoint_of
from search.model.shapes import make_uninitialised, shapes_of
from search.model.weights import quantised, require_no_lora

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that check pictures, or read those of an IP-Adapter. They are not loaded with the others."""
DTYPE = torch.float32
"""Of the weights of all parts but the denoiser, whatever their files hold."""
_LIBRARIES = ("diffusers", "transformers")


def load_parts(
    path: Path, index: Mapping[str, Any], *, but: str, weights: bool, files: bool = True
) -> dict[str, Any]:
    """Every part that `index` names, by its name, but for one; None where there is none.

    Args:
        path: the pipeline's directory.
        index: its model_index.json.
        but: the part to leave out, the denoiser.
        weights: load them; without, models have their architecture, and emit zeros.
        files: require that there are weights to load, if they are not loaded.

    Raises:
        SearchError: a part cannot be loaded.
    """
    parts: dict[str, Any] = {}
    for name, cls in _classes(index):
        if name in UNUSED or cls is None:
            parts[name] = None
        elif name != but:
            parts[name] = load_part(cls, name, path / name, weights=weights, files=files)
    return parts


def load_models(
    path: Path, index: Mapping[str, Any], *, but: Collection[str]
) -> dict[str, nn.Module]:
    """The models among the parts but for some, with their weights."""
    return {
        name: load_part(cls, name, path / name, weights=True)
        for name, cls in _classes(index)
        if name not in (*but, *UNUSED) and cls is not None and issubclass(cls, nn.Module)
    }


def load_unused(path: Path, index: Mapping[str, Any], name: str) -> Any:
    """A part that is not loaded with the others, with its weights; None where the pipeline has none."""
    library, cls = index.get(name) or ("", None)
    if cls is None:
        return None
    return load_part(_class_of(library, cls, name), name, path / name, weights=True)


def require_plain(folder: Path) -> None:
    """Refuse a part whose configuration says that it was saved quantised."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = config.get("quantization_config")
    except (OSError, ValueError, AttributeError):
        return  # whoever loads the part says what is wrong
    if found:
        method = found.get("quant_method", found) if isinstance(found, dict) else found
        raise SearchError(quantised(folder, f"quantization_config {method!r} in config.json"))


def _classes(index: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and class of every part from a library; None for the class of a part that is not there."""
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or len(entry) != 2:
            continue
        library, cls = entry
        if name in UNUSED or cls is None:
            yield name, None
        elif library in _LIBRARIES:
            yield name, _class_of(library, cls, name)


def _class_of(library: str, cls: str, name: str) -> Any:
    """The class of a part, from one of the libraries that code is taken from."""
    if library not in _LIBRARIES:
        msg = (
            f"the part {name!r} is a {cls!r} of {library!r}, but parts are taken from {' and '.join(_LIBRARIES)} "
            "alone; save the pipeline with one of these"
        )
        raise SearchError(msg)
    found = getattr(importlib.import_module(library), str(cls), None)
    if found is None:
        msg = (
            f"the part {name!r} is a {cls!r}, which this version of {library} does not have; update "
            f"{library}"
        )
        raise SearchError(msg)
    return found


def load_part(cls: Any, name: str, folder: Path, *, weights: bool, files: bool = True) -> Any:
    """One part, or a sentence that names it."""
    if not folder.is_dir():
        msg = (
            f"model_index.json names the part {name!r}, but there is no {str(folder)!r}; download it too, or, "
            "where the pipeline does without, write [null, null] for it in model_index.json"
        )
        raise SearchError(msg)
    is_model = issubclass(cls, nn.Module)
    if is_model:
        require_plain(folder)
        _require_one(cls, name)
    try:
        if not is_model:
            return cls.from_pretrained(folder, local_files_only=True)
        if weights:
            return _model(cls, folder)
        if files:
            weight_files(cls, folder)
        return _without_weights(cls, folder)
    except SearchError:
        raise
    except Exception as error:  # the libraries have no common class for a damaged part
        msg = f"cannot load the part {name!r} of {str(folder.parent)!r}: {' '.join(str(error).split())[:300]}"
        raise SearchError(msg) from error


def _require_one(cls: Any, name: str) -> None:
    """Refuse a part that is several models, as several ControlNets are: it has no configuration of its own."""
    from transformers import PreTrainedModel

    if not issubclass(cls, PreTrainedModel) and not hasattr(cls, "from_config"):
        msg = (
            f"the part {name!r} is a {cls.__name__}: several models, each with a picture of its "
            "own, but a run takes one picture; save the pipeline with one of them"
        )
        raise SearchError(msg)


def _model(cls: Any, folder: Path) -> nn.Module:
    """A model with all its weights, as `DTYPE`."""
    from transformers import PreTrainedModel

    is_transformers = issubclass(cls, PreTrainedModel)
    found = weight_files(cls, folder)
    dtype = {"dtype" if is_transformers else "torch_dtype": DTYPE}
    model, report = cls.from_pretrained(
        folder,
        variant=found.variant,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        **dtype,
    )
    require_no_lora(report["unexpected_keys"], folder)
    missing = sorted(map(str, report["missing_keys"]))
    if missing:
        msg = (
            f"{str(folder)!r} lacks the weights {missing[:3]}, which its config.json asks for; take both "
            "from the same pipeline"
        )
        raise SearchError(msg)
    made: nn.Module = model.eval()
    return made


def _without_weights(cls: Any, folder: Path) -> nn.Module:
    """A model on the meta device that answers with zeros on the CPU: only shapes can be read off it."""
    from transformers import PreTrainedModel

    is_transformers = issubclass(cls, PreTrainedModel)

    def build() -> nn.Module:
        with init_empty_weights(include_buffers=False):
            model: nn.Module = (
                cls(cls.config_class.from_pretrained(folder))
                if is_transformers
                else cls.from_config(cls.load_config(folder))
            )
        return model.eval()

    @functools.cache
    def room() -> nn.Module:
        return make_uninitialised(build())

    def run(*args: Any, **kwargs: Any) -> Any:
        # A mask changes no shape, and models ask for its values.
        given = {k: None if k == "attention_mask" else value for k, value in kwargs.items()}
        return shapes_of(room(), args, given)

    def encode(*args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        [made] = shapes_of(room(), args, {**kwargs, "return_dict": False}, method="encode")
        if not isinstance(made, DiagonalGaussianDistribution):
            return EncoderOutput(made) if return_dict else (made,)
        posterior = DiagonalGaussianDistribution(torch.zeros(made.parameters.shape))
        return AutoencoderKLOutput(posterior) if return_dict else (posterior,)

    model = build()
    model.forward = functools.wraps(model.forward)(run)
    if isinstance(model, AutoencoderMixin):
        vars(model)["encode"] = encode
    return model


def weight_files(cls: type, folder: Path) -> WeightFiles:
    """The files that a model of this class loads; see `checkpoint_of`."""
    from transformers import PreTrainedModel

    return checkpoint_of(folder, TRANSFORMERS if issubclass(cls, PreTrainedModel) else DIFFUSERS)


def is_weightless(model: Any) -> bool:
    """Whether a model was loaded without its weights."""
    return isinstance(model, nn.Module) and any(p.is_meta for p in model.parameters())
