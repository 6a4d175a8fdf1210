"""docs/models.md: which classes of diffusers compile, from the recorded rows."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from benchmarks import record
from search.core.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.families.__main__ import Row

HEAD = """# Models

Every text-to-image and text-to-video class of diffusers {version}, tried on a tiny instance with random
weights: searched with `full` and the options named, exported, run on ONNX Runtime without PyTorch,
and compared with diffusers' own call, pixel by pixel. Classes that also take a picture, such as those
with a ControlNet, are listed as far as they have been tried. `python -m benchmarks.families` writes
this page.

A class that is not listed may work as well: most classes need no code of their own.

## Equal to diffusers: {count} pipelines

| class | options of search | denoiser calls per step | blocks | largest difference of a pixel |
|---|---|---|---|---|
"""


def write(rows: Sequence[Row], not_built: Mapping[str, str]) -> None:
    """Write the page."""
    equal = sorted((row for row in rows if row.is_equal), key=lambda row: row.cls)
    others = sorted((row for row in rows if not row.is_equal), key=lambda row: row.cls)
    lines = [HEAD.format(version=version("diffusers"), count=len(equal))]
    lines += [
        f"| {row.cls} | {_code(row.options)} | {row.calls} | {row.blocks} | {row.pixel * 255:.2f} / 255 |\n"
        for row in equal
    ]
    lines.append("\n## Not equal\n\n| class | why |\n|---|---|\n")
    lines += [f"| {row.cls} | {_reason(row)} |\n" for row in others]
    lines.append("\n## Not tried\n\n| class | why |\n|---|---|\n")
    lines += [f"| {cls} | {why} |\n" for cls, why in sorted(not_built.items())]
    write_atomically(record.ROOT / "docs" / "models.md", "".join(lines))


def _code(text: str) -> str:
    """As code."""
    return f"`{text}`" if text else ""


def _reason(row: Row) -> str:
    """Why a class is not in the first table."""
    if row.refused:
        return row.refused.replace("|", "\\|")
    return f"the picture is {row.pixel * 255:.0f} / 255 off"
