"""Which weight files of a part's folder the libraries load."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.core.errors import SearchError

if TYPE_CHECKING:
    from pathlib import Path

DIFFUSERS = "diffusion_pytorch_model"
"""How diffusers names its files."""
TRANSFORMERS = "model"
"""How transformers does."""
_PICKLED = {DIFFUSERS: DIFFUSERS, TRANSFORMERS: "pytorch_model"}
_TAG = r"(?P<tag>[A-Za-z0-9_]+)"


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of one part.

    Attributes:
        files: in order.
        variant: the `variant` argument that loads them, such as `fp16`; None loads the plain ones.
    """

    files: tuple[Path, ...]
    variant: str | None


def checkpoint_of(folder: Path, stem: str) -> WeightFiles:
    """The files that `from_pretrained` takes; without plain ones, those of the only variant.

    Args:
        folder: of one part of a pipeline.
        stem: `DIFFUSERS` or `TRANSFORMERS`.

    Raises:
        SearchError: there are none, several variants, pickled ones only, or shards are missing.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    single, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    # Of both, diffusers takes the index and transformers the single file.
    order = (index, single) if stem == DIFFUSERS else (single, index)
    for name in order:
        if name in names:
            return WeightFiles(_files_of(folder / name), None)
    variants = _variants(names, stem)
    if len(variants) > 1:
        msg = (
            f"{str(folder)!r} has no {single}, but several variants "
            f"({', '.join(sorted(variants))}); keep the files of one"
        )
        raise SearchError(msg)
    for tag, name in variants.items():
        return WeightFiles(_files_of(folder / name), tag)
    raise SearchError(_nothing_to_load(folder, stem, names))


def _variants(names: list[str], stem: str) -> dict[str, str]:
    """Variant -> its single file, or its index if it is sharded."""
    single = re.compile(rf"{re.escape(stem)}\.{_TAG}\.safetensors")
    index = re.compile(
        rf"{re.escape(stem)}\.safetensors\.(index\.{_TAG}|(?P<old>[A-Za-z0-9_]+)\.index)\.json"
    )
    found: dict[str, str] = {}
    for name in names:
        if match := single.fullmatch(name):
            found.setdefault(match["tag"], name)
        elif match := index.fullmatch(name):
            found[match["tag"] or match["old"]] = name
    return found


def _files_of(path: Path) -> tuple[Path, ...]:
    """A single file, or the shards that an index names."""
    if path.suffix != ".json":
        return (path,)
    try:
        shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        files = tuple(path.with_name(str(name).rpartition("/")[2]) for name in shards)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{str(path)!r} is damaged ({error}); copy or download the file again"
        raise SearchError(msg) from error
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        msg = f"{str(path)!r} names the shards {missing}, which are not there; download them too"
        raise SearchError(msg)
    return files


def _nothing_to_load(folder: Path, stem: str, names: list[str]) -> str:
    """Why there are no weights to load."""
    pickled = [name for name in names if re.match(rf"{_PICKLED[stem]}[.-].*\.?bin\b", name)]
    if pickled:
        return (
            f"{str(folder)!r} has its weights only in {pickled[0]!r}, a pickle file, which "
            "stepcarve does not open; load the pipeline with diffusers and save it with "
            "save_pretrained(..., safe_serialization=True)"
        )
    if "adapter_config.json" in names or any("lora" in name for name in names):
        return (
            f"{str(folder)!r} has only LoRA weights; load them into their pipeline with "
            "diffusers, call fuse_lora() and unload_lora_weights(), and save that"
        )
    return (
        f"no {stem}.safetensors in {str(folder)!r}; save the pipeline with "
        "save_pretrained(..., safe_serialization=True), or download the missing files"
    )
