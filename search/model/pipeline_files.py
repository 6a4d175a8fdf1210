"""What lies in the directory of a diffusers pipeline."""

from __future__ import annotations

import inspect
import json
import re
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError
from search.core.files import require_pipeline
from search.model.computing import compute_in
from search.model.encoder import text_to_image_of
from search.model.removed import build_denoiser, removed_of

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from search.model.family import Family
    from search.model.weights import DenoiserWeights

_PACKAGE = re.compile(r"(?:pip install |No module named ['\"])([\w.-]+)")
"""What an error of an import says about the package."""


def read_index(path: Path) -> dict[str, Any]:
    """The model_index.json of a pipeline's directory; its `_class_name` is a text."""
    file = require_pipeline(path)
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        name = index["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{str(file)!r} is damaged ({error}); save or download the pipeline again"
        raise SearchError(msg) from error
    if not isinstance(name, str):
        msg = f"{str(path)!r} is a custom pipeline ({name}); give one of a class that diffusers has"
        raise SearchError(msg)
    result: dict[str, Any] = {**index, "_class_name": text_to_image_of(name)}
    return result


def denoiser_of(path: Path, family: Family, index: dict[str, Any]) -> Any:
    """The denoiser with its parameters on the meta device."""
    import diffusers
    from accelerate import init_empty_weights

    try:
        cls = getattr(diffusers, index[family.component][1])
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        msg = f"model_index.json in {str(path)!r} has no usable {family.component!r} ({error})"
        raise SearchError(msg) from error
    try:
        config = cls.load_config(path / family.component)
        with init_empty_weights(include_buffers=False):
            return build_denoiser(cls, config, family)
    except (OSError, ValueError, TypeError, KeyError) as error:
        msg = f"cannot make the {family.component} of {str(path)!r} from its config.json: {' '.join(str(error).split())[:300]}"
        raise SearchError(msg) from error


def with_weights(denoiser: Any, files: DenoiserWeights, dtype: torch.dtype | None = None) -> Any:
    """The denoiser with the weights of these files, computing in `dtype`; None is float32."""
    import torch

    dtype = dtype or torch.float32
    if removed_of(denoiser.config):
        denoiser.load_state_dict(
            {name: files.tensor(name).float() for name in denoiser.state_dict()}, assign=True
        )
    else:
        denoiser = type(denoiser).from_pretrained(
            files.folder,
            variant=files.checkpoint.variant,
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=dtype,
        )
    if dtype is not torch.float32:
        compute_in(denoiser, dtype)
    return denoiser


def assembled(path: Path, index: dict[str, Any], parts: dict[str, Any]) -> Any:
    """The pipeline of diffusers with these parts."""
    import diffusers
    import torch

    cls: Any = getattr(diffusers, index["_class_name"], diffusers.DiffusionPipeline)
    # A mark that is put on pictures is computed outside of torch, so no graph can have it.
    is_marked = "add_watermarker" in inspect.signature(cls.__init__).parameters
    options = {"add_watermarker": False} if is_marked else {}
    try:
        return cls.from_pretrained(
            path,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            **parts,
            **options,
        )
    except Exception as error:  # what the libraries raise has no common class
        message = " ".join(str(error).split())[:300]
        package = _PACKAGE.search(message) if isinstance(error, ImportError) else None
        if package is not None:
            msg = (
                f"{index['_class_name']} needs the package {package[1]!r}, which is not "
                "installed; install it, or take a pipeline that does not need it"
            )
        else:
            msg = f"cannot load the pipeline {str(path)!r}: {message}"
        raise SearchError(msg) from error
