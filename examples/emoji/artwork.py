"""The emoji artwork of two npm packages: names and pictures of those that can be told apart."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 64
STYLES = {"shaded": "google", "flat": "twitter"}
"""Word of the caption -> the set, in the package `emoji-datasource-<set>`."""
DEFAULT_PACKAGES = Path.home() / ".cache" / "stepcarve" / "emoji" / "node_modules"
SAME = 0.05
"""Pictures whose pixels (0..1, reduced to 32x32) differ by less, root mean square, are one emoji."""
LONGEST = 11
"""Pieces of a name: words and single digits. The rest of the caption needs five tokens more."""


class ArtworkError(ValueError):
    """The packages are not there, or hold something else than expected."""


@dataclass(frozen=True)
class Artwork:
    """All emoji, `E` of them, in `S` styles.

    Attributes:
        names: of each emoji, unlike all others; lower-case words and digits.
        others: a second name of each emoji, or the first again.
        kinds: what it is, for example `fruit`.
        pictures: `[E, S, 64, 64, 4]` uint8 RGBA.
    """

    names: tuple[str, ...]
    others: tuple[str, ...]
    kinds: tuple[str, ...]
    pictures: NDArray[np.uint8]


@cache
def read_artwork(packages: Path) -> Artwork:
    """Read `emoji-datasource-google` and `emoji-datasource-twitter` in the folder `packages`."""
    index = packages / "emoji-datasource-google" / "emoji.json"
    if not index.is_file():
        msg = (
            f"no emoji artwork in {str(packages)!r}, which should hold emoji-datasource-google and "
            "emoji-datasource-twitter; install both with npm, or name their folder with --packages"
        )
        raise ArtworkError(msg)
    found = [e for e in json.loads(index.read_text()) if e["category"] != "Component"]
    found.sort(key=lambda e: int(e["sort_order"]))
    pictures = np.stack([_pictures(packages, e["image"]) for e in found])
    alike = _repeated(pictures)
    names: dict[str, Any] = {}
    for number, each in enumerate(found):
        name = plain_words(each["name"])
        if name in names:
            name = plain_words(each["short_name"])
        if number not in alike and name not in names and len(name_pieces(name)) <= LONGEST:
            names[name] = (number, each)
    return Artwork(
        names=tuple(names),
        others=_second_names(names),
        kinds=tuple(plain_words(e["subcategory"]).split()[-1] for _, e in names.values()),
        pictures=pictures[[number for number, _ in names.values()]],
    )


def plain_words(text: str) -> str:
    """Lower-case words of letters and digits: `Côte d'Ivoire Flag` -> `cote divoire flag`."""
    letters = unicodedata.normalize("NFKD", text.replace("&", " and ").replace("'", ""))
    kept = "".join(c if c.isalnum() else " " for c in letters if not unicodedata.combining(c))
    return " ".join(kept.lower().encode("ascii", "ignore").decode().split())


def name_pieces(name: str) -> list[str]:
    """The words of a name; digits stand alone, as the tokenizer takes them."""
    return "".join(f" {c} " if c.isdigit() else c for c in name).split()


def _pictures(packages: Path, file: str) -> NDArray[np.uint8]:
    pictures = []
    for name in STYLES.values():
        path = packages / f"emoji-datasource-{name}" / "img" / name / "64" / file
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGBA"))
        if picture.shape != (SIZE, SIZE, 4):
            msg = f"{str(path)!r} has the shape {picture.shape}, expected 64x64; install version 16"
            raise ArtworkError(msg)
        pictures.append(picture)
    return np.stack(pictures)


def _second_names(names: dict[str, Any]) -> tuple[str, ...]:
    """The short name of each emoji where nothing else is called so, otherwise its name."""
    seconds: list[str] = []
    for name, (_, each) in names.items():
        short = plain_words(each["short_name"])
        is_free = short not in names and short not in seconds and len(name_pieces(short)) <= LONGEST
        seconds.append(short if is_free and short.isascii() and short else name)
    return tuple(seconds)


def _repeated(pictures: NDArray[np.uint8]) -> set[int]:
    """Emoji that, in some style, look like an earlier one: people of no gender, flags of islands."""
    repeated: set[int] = set()
    for style in range(pictures.shape[1]):
        rgba = pictures[:, style].astype(np.float32) / 255
        seen = rgba[..., :3] * rgba[..., 3:] + 0.5 * (1 - rgba[..., 3:])
        small = seen.reshape(len(seen), SIZE // 2, 2, SIZE // 2, 2, 3).mean(axis=(2, 4))
        rows = small.reshape(len(seen), -1)
        square = (rows * rows).sum(axis=1)
        apart = (square[:, None] + square - 2 * rows @ rows.T) / rows.shape[1] < SAME**2
        for number in range(len(rows)):
            if number not in repeated:
                repeated |= {int(i) for i in np.flatnonzero(apart[number]) if i > number}
    return repeated
