"""Packages like those of npm, with emoji drawn here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = (
    ("RED APPLE", "apple", "food-fruit"),
    ("Côte d'Ivoire Flag", "flag-ci", "country-flag"),
    ("KEYCAP 7", "seven", "keycap"),
    ("GRINNING FACE WITH BIG EYES", "smiley", "face-smiling"),
    ("MAN IN TUXEDO", "man_in_tuxedo", "person-role"),
    ("MAN IN TUXEDO", "person_in_tuxedo", "person-role"),
    ("TWIN OF APPLE", "twin", "food-fruit"),
)


def write_packages(folder: Path) -> Path:
    """Both packages in `folder`, seven emoji of which the last looks like the first."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (8, 8, 4), dtype=np.uint8) for _ in NAMES]
    pictures[-1] = pictures[0]
    rows = []
    for number, (name, short, kind) in enumerate(NAMES):
        rows.append(
            {
                "name": name,
                "short_name": short,
                "subcategory": kind,
                "category": "Objects",
                "sort_order": number,
                "image": f"{number}.png",
            }
        )
        for style in ("google", "twitter"):
            images = folder / f"emoji-datasource-{style}" / "img" / style / "64"
            images.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(pictures[number]).resize((64, 64), Image.Resampling.NEAREST)
            picture.save(images / f"{number}.png")
    rows.append(rows[0] | {"name": "SKIN TONE", "category": "Component", "sort_order": 99})
    (folder / "emoji-datasource-google" / "emoji.json").write_text(json.dumps(rows))
    return folder
