"""The denoiser's weights on disk: which file holds which tensor, and a fingerprint of them all."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from search.core.errors import SearchError
from search.model.checkpoint_files import DIFFUSERS, WeightFiles, checkpoint_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import torch

# Bytes at the start of every tensor that enter the fingerprint: any training or fine-tuning changes
# them, and reading only these keeps the check instant for models of many gigabytes.
_SAMPLED_BYTES = 4096
_LORA = re.compile(r"\.lora_|\.base_layer\.|_lora\.")
_IP_ADAPTER = re.compile(r"\.to_[kv]_ip\.")
_TYPES = {
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float64": "F64",
    "torch.int64": "I64",
}
"""What safetensors calls the types of a denoiser's tensors."""
_NAMED = 3
"""Tensors that a message names."""


@dataclass(frozen=True)
class _Entry:
    """Where a tensor is, and what its file's header says of it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


class DenoiserWeights:
    """The safetensors files of one component folder, read lazily.

    No file stays open: what is read through a mapping counts as memory as long as the mapping lives.

    Raises:
        SearchError: there are none, or one of them is damaged.
    """

    def __init__(self, folder: Path, checkpoint: WeightFiles | None = None) -> None:
        """Read the headers of the files in `folder`, or of `checkpoint` alone."""
        self.folder = folder
        self.checkpoint = checkpoint or checkpoint_of(folder, DIFFUSERS)
        self._entries: dict[str, _Entry] = {}
        self._replaced: dict[str, torch.Tensor] = {}
        for path in self.checkpoint.files:
            try:
                with _opened(path) as file:
                    for name in file.keys():  # noqa: SIM118 - the file is no mapping
                        piece = file.get_slice(name)
                        entry = _Entry(path, piece.get_dtype(), tuple(piece.get_shape()))
                        self._entries[name] = entry
            except (SafetensorError, OSError) as error:
                msg = f"cannot read the weights {str(path)!r}: {error}; copy or download the file again"
                raise SearchError(msg) from error

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self._replaced

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor by its state-dict name, or take what replaces it."""
        if name in self._replaced:
            return self._replaced[name]
        with _opened(self._entries[name].file) as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    def replace(self, name: str, tensor: torch.Tensor) -> None:
        """Let `tensor` take the place of one on disk; the fingerprint stays that of the files."""
        self._replaced[name] = tensor

    def require_fit(self, denoiser: torch.nn.Module) -> None:
        """Refuse weights that are not exactly those of `denoiser`, whose parameters may be on the meta device.

        Raises:
            SearchError: names, shapes or types differ; where it can be seen why, it says so.
        """
        wanted = denoiser.state_dict()
        require_no_lora(self._entries, self.folder)
        _require_no_ip_adapter(self._entries, self.folder)
        ignored = getattr(denoiser, "_keys_to_ignore_on_load_unexpected", None) or ()
        extra = [
            name
            for name in self._entries
            if name not in wanted and not any(re.search(each, name) for each in ignored)
        ]
        missing = [name for name in wanted if name not in self._entries]
        if missing or extra:
            msg = (
                f"the weights in {str(self.folder)!r} are not those of its config.json: {_listed('lack', missing)}"
                f"{' and ' if missing and extra else ''}{_listed('have', extra)}; take both from the same pipeline"
            )
            raise SearchError(msg)
        for name, tensor in wanted.items():
            self._require_like(name, tensor)

    def _require_like(self, name: str, wanted: torch.Tensor) -> None:
        """Refuse another shape than that of `wanted`, and integers that stand for numbers."""
        entry = self._entries[name]
        if entry.shape != tuple(wanted.shape):
            msg = (
                f"{name!r} in {str(self.folder)!r} has the shape {list(entry.shape)}, but its "
                f"config.json asks for {list(wanted.shape)}; take both from the same pipeline"
            )
            raise SearchError(msg)
        if wanted.is_floating_point() and not entry.dtype.startswith(("F", "BF")):
            raise SearchError(quantised(self.folder, f"{name!r} has the type {entry.dtype}"))

    def fingerprint(self, config: Mapping[str, Any]) -> str:
        """SHA-256 over `config` and each tensor's name, type, shape and first 4096 bytes."""
        return _digest(
            config,
            (
                (name, entry.dtype, entry.shape, self.head(name))
                for name, entry in sorted(self._entries.items())
            ),
        )

    def head(self, name: str) -> torch.Tensor:
        """The leading rows of a tensor that the fingerprint reads."""
        shape = self._entries[name].shape
        if not shape:
            return self.tensor(name)
        with _opened(self._entries[name].file) as file:
            head: torch.Tensor = file.get_slice(name)[: _rows(shape)]
        return head


def loaded_fingerprint(denoiser: torch.nn.Module, config: Mapping[str, Any]) -> str:
    """The same of a denoiser in memory; equal if its weights have the type of the files."""
    return _digest(
        config,
        (
            (
                name,
                _TYPES.get(str(tensor.dtype), str(tensor.dtype)),
                tuple(tensor.shape),
                loaded_head(tensor),
            )
            for name, tensor in sorted(denoiser.state_dict().items())
        ),
    )


def loaded_head(tensor: torch.Tensor) -> torch.Tensor:
    """The leading rows of a tensor in memory that the fingerprint reads, on the CPU."""
    head = tensor[: _rows(tuple(tensor.shape))] if tensor.dim() else tensor
    return head.detach().cpu()


def _digest(
    config: Mapping[str, Any],
    heads: Iterable[tuple[str, str, tuple[int, ...], torch.Tensor]],
) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode())
    for name, dtype, shape, head in heads:
        digest.update(f"{name} {dtype} {list(shape)}".encode())
        flat = head.contiguous().flatten()
        digest.update(flat.view(torch.uint8)[:_SAMPLED_BYTES].numpy().tobytes())
    return digest.hexdigest()


def on_disk_name(name: str) -> str:
    """The name of a tensor in the files: a layer with a LoRA beside it holds it as its base layer."""
    return name.replace(".base_layer.", ".")


def require_no_lora(names: Iterable[str], folder: Path) -> None:
    """Refuse weights with a LoRA attached."""
    found = [name for name in names if _LORA.search(name)]
    if found:
        msg = (
            f"the weights in {str(folder)!r} have a LoRA attached ({found[0]!r}); load the pipeline with "
            "diffusers, call fuse_lora() and unload_lora_weights(), and save it again"
        )
        raise SearchError(msg)


def _require_no_ip_adapter(names: Iterable[str], folder: Path) -> None:
    """Refuse weights with an IP-Adapter attached."""
    found = [name for name in names if _IP_ADAPTER.search(name)]
    if found:
        msg = (
            f"the weights in {str(folder)!r} have an IP-Adapter attached ({found[0]!r}), which diffusers does not "
            "load again; take the pipeline without it, and give the adapter's file with export --ip-adapter"
        )
        raise SearchError(msg)


def quantised(folder: Path, why: str) -> str:
    """What to say of weights that are integers with scales."""
    return (
        f"the weights in {str(folder)!r} are quantised ({why}), but stepcarve needs "
        "floating-point weights; load the pipeline with diffusers, call dequantize() on that "
        "part and save it, or take the original"
    )


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers configuration as JSON values, without the entries that name files and versions."""
    kept = {k: v for k, v in config.items() if not k.startswith("_")}
    result: dict[str, Any] = json.loads(json.dumps(kept, sort_keys=True, default=list))
    return result


def _opened(path: Path) -> Any:
    return safe_open(path, framework="pt")


def _listed(verb: str, names: list[str]) -> str:
    """`they lack [...]`, with the first few names; nothing without any."""
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"they {verb} {sorted(names)[:_NAMED]}{more}"


def _rows(shape: tuple[int, ...]) -> int:
    """How many leading rows hold the sampled bytes, for elements of at least one byte; at least one."""
    row = math.prod(shape[1:])
    return max(1, min(shape[0], -(-_SAMPLED_BYTES // max(1, row))))
