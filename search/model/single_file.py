"""Checkpoints that are one file, written as pipeline directories."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from safetensors import SafetensorError, safe_open

from search.core.errors import SearchError
from search.core.files import whole_directory
from search.model.parts import UNUSED
from search.model.pipeline_files import read_index

if TYPE_CHECKING:
    from pathlib import Path


def convert(checkpoint: Path, config: Path, out: Path) -> str:
    """Write a single-file checkpoint as a pipeline directory, by diffusers' own loader.

    Nothing is downloaded: what is not in the file comes from `config`.

    Args:
        checkpoint: a safetensors file.
        config: a directory with the configurations of such a pipeline, its tokenizers, and the weights of
            those parts that the file does not have.
        out: the directory to make.

    Returns:
        The class of the pipeline.

    Raises:
        SearchError: the file is of another format, or does not fit the configurations.
    """
    cls = read_index(config)["_class_name"]
    dtype = _dtype_of(checkpoint)
    with whole_directory(out) as made:
        try:
            pipe: Any = getattr(diffusers, cls).from_single_file(
                str(checkpoint),
                config=str(config),
                local_files_only=True,
                torch_dtype=dtype,
                **_without(cls),
            )
            pipe.save_pretrained(made, safe_serialization=True)
        except Exception as error:  # the libraries have no common class for what does not fit
            msg = (
                f"diffusers cannot load {str(checkpoint)!r} as the {cls} of {str(config)!r}: "
                f"{' '.join(str(error).split())[:300]}; give the directory of the pipeline that the file is of"
            )
            raise SearchError(msg) from error
    return str(cls)


def _without(cls: str) -> dict[str, None]:
    """The parts that no bundle has, which need not be there."""
    takes = getattr(diffusers, cls)._get_signature_keys(getattr(diffusers, cls))[0]
    return {name: None for name in UNUSED if name in takes}


def _dtype_of(checkpoint: Path) -> torch.dtype:
    """Of most of its tensors' numbers."""
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    counts: Counter[str] = Counter()
    try:
        with safe_open(checkpoint, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                piece = file.get_slice(name)
                counts[names.get(piece.get_dtype(), "float32")] += torch.Size(
                    piece.get_shape()
                ).numel()
    except (SafetensorError, OSError) as error:
        msg = f"cannot read the checkpoint {str(checkpoint)!r} ({error}); give a .safetensors file"
        raise SearchError(msg) from error
    [(most, _)] = counts.most_common(1) or [("float32", 0)]
    found: torch.dtype = getattr(torch, most)
    return found
