"""The denoiser that is left when blocks are taken out for good."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.core.blocks import outermost
from search.core.files import whole_directory
from search.model.removed import KEY, remove_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from search.model.pipeline import Pipeline


def prune(pipeline: Pipeline, names: Sequence[str]) -> nn.Module:
    """A float32 copy of the pipeline's denoiser without these blocks, which its configuration lists."""
    is_whole = pipeline.dtype == "float32"
    student: Any = (
        copy.deepcopy(pipeline.denoiser)
        if is_whole
        else pipeline.read_denoiser().to(pipeline.denoiser.device)
    )
    gone = removed_with(pipeline, names)
    remove_blocks(student, [name for name in gone if name not in pipeline.removed], pipeline.family)
    student.register_to_config(**{KEY: gone})
    pruned: nn.Module = student
    return pruned


def removed_with(pipeline: Pipeline, names: Sequence[str]) -> list[str]:
    """The blocks that are missing once `names` are removed too."""
    return outermost([*pipeline.removed, *names])


def save_pipeline(pipeline: Pipeline, student: Any, out: Path) -> None:
    """Write the pipeline's directory again with another denoiser, atomically."""
    component = pipeline.family.component

    def others(at: str, names: list[str]) -> list[str]:
        return [name for name in names if name == component and Path(at) == pipeline.path]

    with whole_directory(out) as made:
        shutil.copytree(pipeline.path, made, ignore=others, dirs_exist_ok=True)
        student.save_pretrained(made / component, safe_serialization=True)
