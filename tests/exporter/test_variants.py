"""Several shapes in one bundle: what they share, and what is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exporter import variant
from exporter.bundle import Bundle
from exporter.errors import ExportError
from exporter.exporting import export
from exporter.shape import Shape
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline

SIZES = ((24, 24), (16, 32))
pytestmark = pytest.mark.slow  # four exports in one; test_cli.py has a smaller bundle with variants


@pytest.fixture(scope="module")
def bundle(pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two sizes with one and two images each."""
    path = pipelines("three-levels")
    opened = open_pipeline(path, weights=False)
    subnet = search(opened, "deepcache", Options(steps=4, interval=2))
    out = tmp_path_factory.mktemp("variants") / "bundle"
    return export(path, subnet, out, sizes=SIZES, batches=(1, 2))


def test_there_is_a_variant_for_every_size_and_batch(bundle: Bundle) -> None:
    shapes = [Shape(*size, images) for size in SIZES for images in (1, 2)]
    assert list(bundle.shapes) == shapes
    assert [each.shape for each in bundle.variants()] == shapes
    for each in bundle.variants():
        assert each.noise_shape == (
            each.shape.images,
            4,
            each.shape.height // 2,
            each.shape.width // 2,
        )
        each.check()


@pytest.mark.parametrize(
    ("wanted", "shape"),
    [
        ({}, Shape(24, 24, 1)),
        ({"images": 2}, Shape(24, 24, 2)),
        ({"height": 16}, Shape(16, 32, 1)),
        ({"height": 16, "width": 32, "images": 2}, Shape(16, 32, 2)),
    ],
)
def test_the_first_variant_that_fits_is_opened(
    bundle: Bundle, wanted: dict[str, int], shape: Shape
) -> None:
    assert Bundle.open(bundle.path, **wanted).shape == shape


def test_a_shape_that_was_not_exported_is_refused_with_those_that_were(bundle: Bundle) -> None:
    with pytest.raises(ExportError) as caught:
        Bundle.open(bundle.path, height=24, images=3)
    assert str(caught.value).endswith(
        "has no variant for height 24, images 3; it makes 24 x 24 with 1 image, 24 x 24 with 2 images, "
        "16 x 32 with 1 image, 16 x 32 with 2 images; take one of these, or export again with others"
    )


def test_equal_files_are_stored_once(bundle: Bundle) -> None:
    one, two, other, _ = bundle.variants()
    assert one.subnet_file == two.subnet_file != other.subnet_file
    assert one.conditioner == other.conditioner, "texts do not know the size of pictures"
    assert one.conditioner != two.conditioner, "one gives conditions for twice as many"
    assert not {*one.graphs, one.decoder} & {*other.graphs, other.decoder}
    assert len(set(bundle.files.values())) == len(bundle.files)
    assert {"manifest.json", *bundle.files} == {each.name for each in bundle.path.iterdir()}


def test_variants_share_the_weights(bundle: Bundle, tmp_path: Path) -> None:
    alone = export(Path(bundle.pipeline), bundle.subnet, tmp_path / "alone")
    size = {each.path: (each.path / "weights.bin").stat().st_size for each in (alone, bundle)}
    assert size[alone.path] <= size[bundle.path] <= 1.03 * size[alone.path]


def test_a_variant_is_the_subnet_bound_to_its_size(bundle: Bundle) -> None:
    own, _, other, _ = (each.subnet for each in bundle.variants())
    assert other.actions == own.actions
    assert other.binding.noise_shape == (4, 8, 16)
    assert other.topology.macs < own.topology.macs
    assert other.topology.blocks == own.topology.blocks


def test_each_variant_is_refused_where_it_encodes_texts_otherwise(
    pipelines: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is carved; a condition that only loop invariants are made of counts."""
    path, trace_ends = pipelines("two-levels"), variant.trace_ends
    subnet = search(open_pipeline(path, weights=False), "full", Options(steps=2))
    said: list[str] = []

    def trace(pipeline: Any, subnet: Any, images: int, *others: Any) -> Any:
        unlike = {"encode_prompt__0": "a text", "other": ""} if images == 2 else {}
        return replace(trace_ends(pipeline, subnet, images, *others), unlike=unlike)

    monkeypatch.setattr(variant, "trace_ends", trace)
    with pytest.raises(ExportError, match=r"for the prompt 'a text' .* \['encode_prompt__0'\]"):
        export(path, subnet, tmp_path / "bundle", batches=(1, 2), report=said.append)
    assert said[-1].endswith("2 images: trace denoiser")
    assert not (tmp_path / "bundle").exists()
