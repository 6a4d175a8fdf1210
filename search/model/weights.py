"""The denoiser's weights on disk: which file holds which tensor, and a fingerprint of them all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

STEM = "diffusion_pytorch_model"
# Bytes at the start of every tensor that enter the fingerprint: any training or fine-tuning changes
# them, and reading only these keeps the check instant for models of many gigabytes.
_SAMPLED_BYTES = 4096


class DenoiserWeights:
    """The safetensors files of one component folder, read lazily.

    No file stays open: what is read through a mapping counts as memory as long as the mapping lives.

    Raises:
        SearchError: there are none, or one of them is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file_of: dict[str, Path] = {}
        for path in _files(folder):
            try:
                with _opened(path) as file:
                    self._file_of.update(dict.fromkeys(file.keys(), path))
            except (SafetensorError, OSError) as error:
                msg = f"cannot read the weights {str(path)!r}: {error}; copy or download the file again"
                raise SearchError(msg) from error

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor by its state-dict name."""
        with _opened(self._file_of[name]) as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    def fingerprint(self, config: Mapping[str, Any]) -> str:
        """SHA-256 over `config` and each tensor's name, type, shape and first 4096 bytes."""
        import torch

        digest = hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode())
        for name in sorted(self._file_of):
            piece = _opened(self._file_of[name]).get_slice(name)
            shape = piece.get_shape()
            digest.update(f"{name} {piece.get_dtype()} {shape}".encode())
            head = piece[: max(1, _rows(shape))] if shape else self.tensor(name)
            flat = head.contiguous().flatten()
            digest.update(flat.view(torch.uint8)[:_SAMPLED_BYTES].numpy().tobytes())
        return digest.hexdigest()


def _opened(path: Path) -> Any:
    return safe_open(path, framework="pt")


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers configuration as JSON values, without the entries that name files and versions."""
    kept = {k: v for k, v in config.items() if not k.startswith("_")}
    result: dict[str, Any] = json.loads(json.dumps(kept, sort_keys=True, default=list))
    return result


def _rows(shape: list[int]) -> int:
    """How many leading rows hold the sampled bytes, for elements of at least one byte."""
    row = 1
    for size in shape[1:]:
        row *= size
    return min(shape[0], -(-_SAMPLED_BYTES // max(1, row)))


def _files(folder: Path) -> list[Path]:
    single, index = folder / f"{STEM}.safetensors", folder / f"{STEM}.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            names = json.loads(index.read_text())["weight_map"].values()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            msg = f"{str(index)!r} is damaged ({error}); copy or download the file again"
            raise SearchError(msg) from error
        return [folder / Path(name).name for name in sorted(set(names))]
    msg = (
        f"no {STEM}.safetensors in {str(folder)!r}; save the pipeline with "
        "save_pretrained(..., safe_serialization=True)"
    )
    raise SearchError(msg)
