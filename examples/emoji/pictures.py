"""Captioned 64x64 pictures of one emoji on a plain background, composed from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from examples.emoji.artwork import SIZE, STYLES, Artwork

if TYPE_CHECKING:
    from numpy.typing import NDArray

BACKGROUNDS = {
    "white": (245, 245, 245),
    "grey": (128, 128, 128),
    "black": (18, 18, 18),
    "red": (200, 50, 45),
    "yellow": (240, 205, 70),
    "green": (70, 150, 80),
    "blue": (55, 95, 190),
    "pink": (240, 170, 195),
}
SMALLEST, LARGEST = 46, 56
"""Edge of the emoji in pixels."""
SHIFT = 6
"""Pixels off the centre, at most: the noise has to decide where the emoji stands."""


@dataclass(frozen=True)
class Items:
    """What `N` pictures show, `[N]` indices each: into the emoji, `STYLES` and `BACKGROUNDS`."""

    emoji: NDArray[np.int64]
    styles: NDArray[np.int64]
    backgrounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.emoji)

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> Items:
        return Items(self.emoji[chosen], self.styles[chosen], self.backgrounds[chosen])


def held_out_background(emoji: NDArray[np.int64]) -> NDArray[np.int64]:
    """The background on which an emoji is never trained, in no style."""
    return (emoji * 5 + emoji // 8) % len(BACKGROUNDS)


def trained_items(count: int) -> Items:
    """Every emoji of `count` in every style on every background but the held-out one."""
    grid = np.indices((count, len(STYLES), len(BACKGROUNDS))).reshape(3, -1)
    emoji, styles, backgrounds = grid[:, grid[2] != held_out_background(grid[0])]
    return Items(emoji, styles, backgrounds)


def held_out_items(count: int) -> Items:
    """Every emoji of `count` in every style on the background that training never shows it on."""
    emoji, styles = np.indices((count, len(STYLES))).reshape(2, -1)
    return Items(emoji, styles, held_out_background(emoji))


def choose(items: Items, count: int, rng: np.random.Generator) -> Items:
    """`count` of `items`, drawn with replacement."""
    return items[rng.integers(len(items), size=count)]


def captions(artwork: Artwork, items: Items) -> list[str]:
    """One per item, for example `flat red apple on teal`."""
    return [
        caption(artwork.names[e], s, b)
        for e, s, b in zip(items.emoji, items.styles, items.backgrounds, strict=True)
    ]


def caption(name: str, style: int, background: int) -> str:
    """What stands under the picture of the emoji called `name`."""
    return f"{list(STYLES)[style]} {name} on {list(BACKGROUNDS)[background]}"


def compose(
    artwork: Artwork, items: Items, rng: np.random.Generator, *, shift: int = SHIFT
) -> NDArray[np.uint8]:
    """The pictures `[N, 64, 64, 3]` uint8, each up to `shift` off the centre and of its own size."""
    colours = np.array(list(BACKGROUNDS.values()), np.float32)[items.backgrounds]
    colours = colours + rng.uniform(-6, 6, colours.shape).astype(np.float32)
    edges = rng.integers(SMALLEST, LARGEST + 1, size=len(items))
    shifts = rng.integers(-shift, shift + 1, size=(len(items), 2))
    canvas = np.zeros((len(items), SIZE, SIZE, 4), np.float32)
    for n, (emoji, style) in enumerate(zip(items.emoji, items.styles, strict=True)):
        edge = int(edges[n])
        image = Image.fromarray(artwork.pictures[emoji, style])
        top, left = (SIZE - edge) // 2 + shifts[n]
        # Pillow resizes RGBA with premultiplied colours: no dark seam.
        resized = np.asarray(image.resize((edge, edge), Image.Resampling.LANCZOS))
        into = (slice(max(0, top), top + edge), slice(max(0, left), left + edge))
        canvas[n][into] = resized[max(0, -top) :, max(0, -left) :][: SIZE - top, : SIZE - left]
    alpha = canvas[..., 3:] / 255
    pixels = canvas[..., :3] * alpha + colours[:, None, None] * (1 - alpha)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
