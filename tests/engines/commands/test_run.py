"""`stepcarve run`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import Places, ok, require_refused, stepcarve


def test_a_variant_is_chosen_by_its_shape(variants: Path, tmp_path: Path) -> None:
    for height, words in ((24, ()), (16, ("--height", 16, "--num-images", 3))):
        printed = ok("run", variants, "--prompt", "red", *words, "-o", tmp_path / "x.png", "--json")
        images = json.loads(printed)["images"]
        assert len(images) == 3
        for path in images:
            with Image.open(path) as image:
                assert image.size == (24, height)
    assert "Parity holds" in ok("verify", variants, "--height", 16)


def test_run_writes_a_picture_and_the_latents(made: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal((1, 4, 12, 12)).astype(np.float32)
    np.save(tmp_path / "noise.npy", noise)
    for name in ("a", "b"):
        ok(
            "run", made / "bundle", "--engine", "onnxruntime", "--prompt", "a red circle",
            "--latents", tmp_path / "noise.npy", "--save-latents", tmp_path / f"{name}.npy",
            "-o", tmp_path / f"{name}.png",
        )  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    assert np.load(tmp_path / "a.npy").shape == (1, 4, 12, 12)
    with Image.open(tmp_path / "a.png") as image:
        assert (image.size, image.mode) == ((24, 24), "RGB")


def test_run_takes_classes_by_number_and_by_name(made: Path, tmp_path: Path) -> None:
    for label, name in (("1", "number"), ("red square", "name")):
        ok("run", made / "dit", "--label", label, "-o", tmp_path / f"{name}.png")
    with Image.open(tmp_path / "number.png") as one, Image.open(tmp_path / "name.png") as other:
        assert one.tobytes() == other.tobytes()


def test_run_makes_pictures_of_every_prompt_of_a_file(made: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("red\n\nblue\n")
    told = json.loads(
        ok(
            "run",
            made / "bundle",
            "--prompts",
            tmp_path / "prompts.txt",
            "--num-images",
            2,
            "--seed",
            3,
            "-o",
            tmp_path / "x.png",
            "--json",
        )
    )
    assert [(run["prompt"], run["seed"]) for run in told["runs"]] == [
        ("red", 3), ("red", 4), ("blue", 3), ("blue", 4),
    ]  # fmt: skip
    assert told["images"] == [str(tmp_path / f"x-{number}.png") for number in range(4)]
    assert [len(run["call_seconds"]) for run in told["runs"]] == [told["calls"]] * 4
    printed = ok("run", made / "bundle", "--prompt", "blue", "--seed", 4, "-o", tmp_path / "y.png")
    assert re.match(rf"{re.escape(str(tmp_path / 'y.png'))}: \d+ calls, [\d.]+ s", printed)
    assert (tmp_path / "y.png").read_bytes() == (tmp_path / "x-3.png").read_bytes()


def test_previews_are_removed_and_older_bundles_have_none(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engines import preview

    shown: list[Path] = []
    original = preview.save_sheet

    def save_sheet(images: np.ndarray, path: Path) -> None:
        original(images, path)
        shown.append(path)

    monkeypatch.setattr(preview, "save_sheet", save_sheet)
    ok("run", made / "bundle", "--prompt", "red", "--preview", "-o", tmp_path / "x.png")
    assert set(shown) == {tmp_path / "x-preview.png"}
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    older = shutil.copytree(made / "bundle", tmp_path / "older")
    manifest = json.loads((older / "manifest.json").read_text())
    del manifest["preview"]
    (older / "manifest.json").write_text(json.dumps(manifest))
    ok("run", older, "--prompt", "red", "-o", tmp_path / "y.png")
    assert (tmp_path / "y.png").read_bytes() == (tmp_path / "x.png").read_bytes()
    result = stepcarve("run", older, "--prompt", "red", "--preview", "-o", tmp_path / "z.png")
    assert result.exit_code == 2
    assert "has no previews" in result.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
    (
        "run {bundle} --prompt x --height 16 -o {out}.png",
        "has no variant for height 16; it makes 24 x 24 with 1 image; take one of these, or",
    ),
    (
        "run {bundle} --prompts {subnet} --prompt x -o {out}.png",
        "prompts are given twice; leave out --prompts",
    ),
    (
        "run {bundle} --prompts {out} -o {out}.png",
        "cannot read prompts from",
    ),
    ("run {changed} --prompt x -o {out}.png", "is not the file that was exported: its SHA-256"),
    (
        "run {bundle} --engine magic --prompt x -o {out}.png",
        "'magic' is not one of 'onnxruntime', 'openvino'",
    ),
    ("run {bundle} --label 3 -o {out}.png", "takes texts; give --prompt, without --label"),
    (
        "run {bundle} --prompt x --latents {tmp}/notes.npy -o {out}.png",
        "is not a .npy file of numbers",
    ),
    (
        "run {bundle} --prompt x --latents {tmp}/empty.npy -o {out}.png",
        "is not a .npy file of numbers",
    ),
    (
        "run {bundle} --prompt x --latents {tmp}/none.npy -o {out}.png",
        "give latents that run --save-latents has written",
    ),
    ("run {bundle} --prompt x -o {tmp}/x.jpg", "give one that ends in .png"),
    ("run {classes} --label 5000 -o {out}.png", "no class '5000'; give a number from 0 to 23"),
    ("run {classes} --label 99999999999999999999 -o {out}.png", "give a number from 0 to 23"),
    ("run {classes} --label 1 --negative red -o {out}.png", "takes no negative prompt"),
    ("run {bundle} --prompt x --device cuda -o {out}.png", "use --device cpu"),
    ("run {no} --prompt x -o {out}.png", "is not a bundle"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_exit_2_and_nothing_written(
    bad_places: Places, line: str, message: str
) -> None:
    require_refused(line, message, bad_places)
