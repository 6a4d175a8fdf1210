"""What one variant of a bundle makes: size and number of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Shape:
    """What one variant of a bundle makes.

    Attributes:
        height: of the pictures, in pixels.
        width: likewise.
        images: per prompt.
        frames: of a video; None for pictures.
    """

    height: int
    width: int
    images: int
    frames: int | None = None

    @staticmethod
    def of(size: tuple[int, ...], images: int) -> Shape:
        """Of pictures of `size`: height, width and a video's frames."""
        height, width, *frames = size
        return Shape(height, width, images, *frames)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Shape:
        """Read a variant of a manifest."""
        frames = data.get("frames")
        size = int(data["height"]), int(data["width"])
        return Shape(*size, int(data["images"]), None if frames is None else int(frames))

    @property
    def asked(self) -> dict[str, int]:
        """What `Bundle.open` finds it by."""
        return {"height": self.height, "width": self.width, "images": self.images}

    def to_json(self) -> dict[str, int]:
        """As plain JSON values; pictures have no frames."""
        return self.asked | ({} if self.frames is None else {"frames": self.frames})

    @property
    def tag(self) -> str:
        """For names of files."""
        frames = "" if self.frames is None else f"x{self.frames}"
        return f"{self.height}x{self.width}{frames}x{self.images}"

    def __str__(self) -> str:
        images = "image" if self.images == 1 else "images"
        frames = "" if self.frames is None else f" x {self.frames} frames"
        return f"{self.height} x {self.width}{frames} with {self.images} {images}"


def find_shape(shapes: Sequence[Shape], wanted: Mapping[str, int | None], path: Path) -> int:
    """The first of `shapes`, those of the bundle at `path`, that matches the request; None matches any."""
    for name, want in wanted.items():
        if want is not None and want < 1:
            msg = f"{name} is {want}; give 1 or more"
            raise ExportError(msg)
    for number, shape in enumerate(shapes):
        if all(want in (None, getattr(shape, name)) for name, want in wanted.items()):
            return number
    given = ", ".join(f"{name} {want}" for name, want in wanted.items() if want is not None)
    msg = (
        f"the bundle {str(path)!r} has no variant for {given}; it makes "
        f"{', '.join(map(str, shapes))}; take one of these, or export again with others"
    )
    raise ExportError(msg)
