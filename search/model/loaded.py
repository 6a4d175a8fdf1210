"""Pipelines of diffusers in memory, and whether a SubNet was made for their denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from search.core.errors import SearchError
from search.model.weights import DenoiserWeights, loaded_fingerprint, loaded_head

if TYPE_CHECKING:
    from search.core.subnet import Binding
    from search.model.family import Family


class NetworksOfPipe:
    """What a pipeline object of diffusers and its family say together."""

    pipe: Any
    family: Family

    @property
    def denoiser(self) -> Any:
        """The U-Net or transformer that is called at the steps, a diffusers `ModelMixin`."""
        return getattr(self.pipe, self.family.component)

    @property
    def networks(self) -> dict[str, Any]:
        """The denoiser, and other parts of its class, which may take its place at some steps or calls."""
        own = {self.family.component: self.denoiser}
        others = self.pipe.components.items()
        return own | {n: part for n, part in others if type(part) is type(self.denoiser)}

    @property
    def default_prompt(self) -> str:
        """A prompt that the pipeline accepts."""
        return self.family.default_prompt


@dataclass(frozen=True)
class LoadedPipeline(NetworksOfPipe):
    """A diffusers pipeline in memory; an `OpenedPipeline`."""

    pipe: Any
    family: Family

    def load_around(self) -> None:
        """Do nothing: all is loaded."""


def require_denoiser(denoiser: Any, binding: Binding) -> None:
    """Refuse another denoiser than that of `binding`.

    Its weights may have another type than their files, if they are these files' weights in that type.

    Raises:
        SearchError: it is another, was changed after it was loaded, or is not in memory.
    """
    name = type(denoiser).__name__
    if name != binding.denoiser:
        msg = (
            f"the SubNet was made for a {binding.denoiser}, but this pipeline has a {name}; give the "
            "pipeline that it was made for"
        )
        raise SearchError(msg)
    if any(tensor.is_meta for tensor in denoiser.state_dict().values()):
        msg = (
            f"the weights of the {name} are not in memory (sequential offloading moves them for each "
            "module), so they cannot be compared with the SubNet's; apply it before offloading is enabled"
        )
        raise SearchError(msg)
    found = loaded_fingerprint(denoiser, denoiser.config)
    if found == binding.fingerprint or _is_cast(denoiser, binding.fingerprint):
        return
    msg = (
        f"the SubNet was made for a {name} with the fingerprint {binding.fingerprint[:16]}..., but this "
        f"one has {found[:16]}...; load the weights it was made for, without a LoRA, or search again on "
        "these"
    )
    raise SearchError(msg)


def _is_cast(denoiser: Any, fingerprint: str) -> bool:
    """Whether the denoiser holds the weights of the folder it came from, in another type."""
    folder = Path(denoiser.config.get("_name_or_path") or "")
    if not any(folder.glob("*.safetensors")):
        return False
    files = DenoiserWeights(folder)
    if files.fingerprint(denoiser.config) != fingerprint:
        return False
    return all(
        torch.equal(files.head(name).to(tensor.dtype), loaded_head(tensor))
        for name, tensor in denoiser.state_dict().items()
    )
