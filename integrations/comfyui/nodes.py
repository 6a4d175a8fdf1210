"""Three nodes: load a bundle, run it, and take the sigmas of a SubNet."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
import numpy as np
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from PIL import Image

import engines
from engines.errors import EngineError
from engines.kinds import engine_names

if TYPE_CHECKING:
    import torch

FOLDER = "stepcarve"
"""Of ComfyUI's models, for bundles and SubNets."""
BUNDLE = "STEPCARVE_BUNDLE"
LARGEST = 16384
PREVIEW_SIDE = 512

folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))

Inputs = dict[str, dict[str, tuple[Any, ...]]]


def find(name: str) -> Path:
    """The path of a bundle or a SubNet.

    Args:
        name: a path, or a name in one of ComfyUI's folders `stepcarve` of models.

    Raises:
        EngineError: nothing is there.
    """
    given = Path(name.strip()).expanduser()
    places = [given, *(Path(folder) / given for folder in folder_paths.get_folder_paths(FOLDER))]
    for place in places:
        if name.strip() and place.exists():
            return place
    msg = f"there is no {name!r}; give its whole path, or its name in the folder models/{FOLDER}"
    raise EngineError(msg)


class StepcarveLoadBundle:
    """Loads a bundle on an engine."""

    TITLE = "Load stepcarve bundle"
    CATEGORY = "stepcarve"
    FUNCTION = "load"
    RETURN_TYPES = (BUNDLE,)
    RETURN_NAMES = ("bundle",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        """The inputs, in the form that ComfyUI asks of a node."""
        size = {"default": 0, "min": 0, "max": LARGEST, "tooltip": "0 takes the bundle's first."}
        return {
            "required": {
                "path": ("STRING", {"default": "", "tooltip": f"A path, or a name in {FOLDER}."}),
                "engine": (list(engine_names()), {"default": "onnxruntime"}),
                "device": (["cpu", "cuda"], {"default": "cpu"}),
            },
            "optional": {
                "height": ("INT", size),
                "width": ("INT", size),
                "images": ("INT", size),
            },
        }

    @classmethod
    def IS_CHANGED(cls, path: str, **_: object) -> str:  # noqa: N802
        """A bundle that was exported again is loaded again."""
        return hashlib.sha256((find(path) / "manifest.json").read_bytes()).hexdigest()

    def load(
        self, path: str, engine: str, device: str, height: int = 0, width: int = 0, images: int = 0
    ) -> tuple[engines.Runner]:
        """The bundle at one of its shapes; 0 stands for any height, width or number of images."""
        asked = {"height": height, "width": width, "images": images}
        shape = {name: value or None for name, value in asked.items()}
        return (engines.load(find(path), engine, device=device, **shape),)


class StepcarveRun:
    """Makes the pictures of one run of a bundle."""

    TITLE = "Run stepcarve bundle"
    CATEGORY = "stepcarve"
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        """The inputs, in the form that ComfyUI asks of a node."""
        text = {"multiline": True, "dynamicPrompts": True, "default": ""}
        seed = {"default": 0, "min": 0, "max": 2**32 - 1, "control_after_generate": True}
        scale = {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1}
        return {
            "required": {
                "bundle": (BUNDLE,),
                "prompt": ("STRING", text),
                "seed": ("INT", seed),
            },
            "optional": {
                "negative": ("STRING", text),
                "guidance": ("FLOAT", {**scale, "tooltip": "0 takes the bundle's."}),
                "image": ("IMAGE",),
                "mask": ("MASK",),
            },
        }

    def run(
        self,
        bundle: engines.Runner,
        prompt: str,
        seed: int,
        negative: str = "",
        guidance: float = 0.0,
        image: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor]:
        """Run it; the bar shows the calls, and a preview where the bundle has one."""
        given = {"image": image, "mask": mask}
        bar, calls = ProgressBar(len(bundle.bundle.calls)), len(bundle.bundle.calls)

        def look(call: int, *_: object) -> None:
            throw_exception_if_processing_interrupted()
            bar.update_absolute(call + 1, calls, preview_of(bundle, call))

        made = bundle.run(
            prompt,
            seed=seed,
            negative=negative,
            guidance=guidance or None,
            pictures={name: picture_of(t) for name, t in given.items() if t is not None},
            on_call=look,
        )
        return (tensor_of(made.images),)


class StepcarveSigmas:
    """The noise levels at which a SubNet calls the denoiser, for ComfyUI's own samplers."""

    TITLE = "Sigmas of a stepcarve SubNet"
    CATEGORY = "stepcarve"
    FUNCTION = "sigmas"
    RETURN_TYPES = ("SIGMAS",)
    RETURN_NAMES = ("sigmas",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        """The inputs, in the form that ComfyUI asks of a node."""
        hint = (
            "Take the times of a fitted sampler without its coefficients; most of its gain is lost."
        )
        return {
            "required": {"path": ("STRING", {"default": "", "tooltip": "A SubNet or a bundle."})},
            "optional": {"grid_only": ("BOOLEAN", {"default": False, "tooltip": hint})},
        }

    @classmethod
    def IS_CHANGED(cls, path: str, **_: object) -> str:  # noqa: N802
        """A file that was written again is read again."""
        found = find(path)
        file = found / "manifest.json" if found.is_dir() else found
        return hashlib.sha256(file.read_bytes()).hexdigest()

    def sigmas(self, path: str, grid_only: bool = False) -> tuple[torch.Tensor]:
        """The noise level of each call, then 0: one axis, float32.

        Raises:
            EngineError: the SubNet has a fitted sampler, and `grid_only` is False.
        """
        import torch

        from exporter.bundle import Bundle
        from exporter.grids import grid_text
        from search.core.subnet import SubNet

        found = find(path)
        subnet = Bundle.open(found).subnet if found.is_dir() else SubNet.load(found)
        if subnet.fitted is not None and not grid_only:
            msg = (
                f"{path!r} has a fitted sampler, whose coefficients are not in its sigmas; set grid_only to "
                "take its times alone, or run its bundle"
            )
            raise EngineError(msg)
        levels = grid_text(subnet, "comfyui", None).split(",")
        return (torch.tensor([float(level) for level in levels], dtype=torch.float32),)


NODES = (StepcarveLoadBundle, StepcarveRun, StepcarveSigmas)


def tensor_of(images: np.ndarray) -> torch.Tensor:
    """Pictures `[B, H, W, 3]` (of videos with their frames) as ComfyUI's IMAGE: float32 in 0..1."""
    import torch

    flat = images.reshape(-1, *images.shape[-3:])
    return torch.from_numpy(flat.astype(np.float32) / np.float32(255))


def picture_of(tensor: torch.Tensor) -> Image.Image:
    """The first of an IMAGE `[B, H, W, C]` or a MASK `[B, H, W]`."""
    first = tensor if tensor.ndim == 2 else tensor[0]
    return Image.fromarray(np.rint(first.cpu().numpy().clip(0, 1) * 255).astype(np.uint8))


def preview_of(runner: engines.Runner, call: int) -> tuple[str, Image.Image, int] | None:
    """What the bar shows after a call: format, picture and longest side."""
    shown = runner.preview(call)
    return None if shown is None else ("JPEG", Image.fromarray(shown[0]), PREVIEW_SIDE)
