"""The generator's pictures as a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from examples.shapes.folder import write_folder
from examples.shapes.pictures import class_names, draw
from search.distill.data import load_picture, read_folder


def test_the_folder_is_one_that_distill_reads(tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures", 3)
    data, drawn = read_folder(tmp_path / "pictures"), draw(3, np.random.default_rng(0))
    assert list(data.captions) == drawn.captions()
    np.testing.assert_array_equal(load_picture(data.files[2], (64, 64)), drawn.pixels[2])


def test_captions_can_be_classes(tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures", 3, classes=True)
    assert set(read_folder(tmp_path / "pictures").captions) <= set(class_names())
