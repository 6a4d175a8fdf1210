"""Captioned 64x64 pictures of one shape on a plain field, drawn from a seed. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIZE = 64

# The words of one attribute never occur in another, so a caption can be read word by word.
COLOURS = {
    "red": (222, 45, 38),
    "green": (40, 165, 70),
    "blue": (38, 80, 215),
    "yellow": (245, 215, 40),
    "magenta": (205, 50, 190),
    "cyan": (45, 205, 215),
}
SHAPES = ("circle", "square", "triangle", "cross")
BACKGROUNDS = {
    "black": (18, 18, 18),
    "white": (240, 240, 240),
    "grey": (128, 128, 128),
    "brown": (105, 62, 30),
}
SIZES = {"small": 10.0, "large": 17.0}
PLACES = {
    "centred": (32, 32),
    "left": (21, 32),
    "right": (43, 32),
    "above": (32, 21),
    "below": (32, 43),
}

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "background": tuple(BACKGROUNDS),
    "size": tuple(SIZES),
    "place": tuple(PLACES),
}


@dataclass(frozen=True)
class Pictures:
    """A batch of drawn pictures with what each of them shows.

    Attributes:
        pixels: `[N, 64, 64, 3]` uint8 RGB.
        attributes: name -> `[N]` index into `ATTRIBUTES[name]`.
    """

    pixels: NDArray[np.uint8]
    attributes: dict[str, NDArray[np.int64]]

    def captions(self) -> list[str]:
        """One sentence per picture, for example `a small red circle left on a grey field`."""
        words = {
            name: [ATTRIBUTES[name][i] for i in indices]
            for name, indices in self.attributes.items()
        }
        return [
            caption(*row)
            for row in zip(
                words["size"],
                words["colour"],
                words["shape"],
                words["place"],
                words["background"],
                strict=True,
            )
        ]

    def labels(self) -> NDArray[np.int64]:
        """Class of each picture, `[N]`: colour x shape, as in `class_names`."""
        return self.attributes["colour"] * len(SHAPES) + self.attributes["shape"]


def caption(size: str, colour: str, shape: str, place: str, background: str) -> str:
    """The sentence that describes one picture."""
    return f"a {size} {colour} {shape} {place} on a {background} field"


def class_names() -> list[str]:
    """The 24 classes of shapes-dit, in label order: `red circle`, `red square`, ..."""
    return [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]


def draw(count: int, rng: np.random.Generator, *, place: str | None = None) -> Pictures:
    """Draw `count` pictures with independent, uniform attributes and a little jitter.

    With `place`, all shapes stand there.
    """
    attributes = {name: rng.integers(len(words), size=count) for name, words in ATTRIBUTES.items()}
    if place is not None:
        attributes["place"] = np.full(count, ATTRIBUTES["place"].index(place))
    foreground = np.array(list(COLOURS.values()), np.float32)[attributes["colour"]]
    field = np.array(list(BACKGROUNDS.values()), np.float32)[attributes["background"]]
    foreground = foreground + rng.uniform(-8, 8, foreground.shape).astype(np.float32)
    field = field + rng.uniform(-8, 8, field.shape).astype(np.float32)
    radius = np.array(list(SIZES.values()))[attributes["size"]] * rng.uniform(0.92, 1.08, count)
    centre = np.array(list(PLACES.values()))[attributes["place"]] + rng.uniform(-2, 2, (count, 2))

    coverage = _coverage(attributes["shape"], centre.astype(np.float32), radius.astype(np.float32))[
        ..., None
    ]
    pixels = field[:, None, None] * (1 - coverage) + foreground[:, None, None] * coverage
    return Pictures(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), attributes)


def _coverage(
    shape: NDArray[np.int64], centre: NDArray[np.float32], radius: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Share of every pixel that the shape covers, `[N, 64, 64]`, from signed distances."""
    coverage = np.empty((len(shape), SIZE, SIZE), np.float32)
    grid = np.arange(SIZE, dtype=np.float32) + 0.5
    for index, distance in enumerate((_circle, _square, _triangle, _cross)):
        mine = shape == index
        x = grid[None, None, :] - centre[mine, 0, None, None]
        y = grid[None, :, None] - centre[mine, 1, None, None]
        coverage[mine] = np.clip(0.5 - distance(x, y, radius[mine, None, None]), 0, 1)
    return coverage


Field = NDArray[np.float32]


def _circle(x: Field, y: Field, r: Field) -> Field:
    return np.hypot(x, y) - r


def _square(x: Field, y: Field, r: Field) -> Field:
    distance: Field = np.maximum(np.abs(x), np.abs(y)) - 0.86 * r
    return distance


def _triangle(x: Field, y: Field, r: Field) -> Field:
    distance: Field = np.maximum(np.sqrt(3) / 2 * np.abs(x) - y / 2, y) - r / 2
    return distance


def _cross(x: Field, y: Field, r: Field) -> Field:
    upright = np.maximum(np.abs(x) - r / 3, np.abs(y) - r)
    lying = np.maximum(np.abs(x) - r, np.abs(y) - r / 3)
    return np.minimum(upright, lying)
