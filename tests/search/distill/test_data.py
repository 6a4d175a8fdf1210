"""Captioned pictures, what is made of them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from examples.shapes.pictures import draw
from search.core.errors import SearchError
from search.distill.data import (
    Conditions,
    Draws,
    encode_pictures,
    load_picture,
    read_folder,
)
from search.laptop.noising import Noising
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.recording import record_call


def picture(file: Path, size: tuple[int, int] = (10, 8)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 40)).save(file)
    return file


def test_captions_come_from_metadata(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "2.jpg")
    rows = [{"file_name": "2.jpg", "text": "two"}, {"file_name": "a/1.png", "caption": "one"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    data = read_folder(tmp_path)
    assert data.captions == ("two", "one")
    assert [file.name for file in data.files] == ["2.jpg", "1.png"]


def test_captions_come_from_text_files(tmp_path: Path) -> None:
    picture(tmp_path / "b.png").with_suffix(".txt").write_text("a bee\n")
    picture(tmp_path / "a.png").with_suffix(".txt").write_text("an ant")
    assert read_folder(tmp_path).captions == ("an ant", "a bee")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 of .* has no file_name with a caption"),
        ('{"file_name": "a.png"}', "line 1 of .* has no file_name with a caption"),
        (
            '{"file_name": "b.png", "text": "x"}',
            "names 'b.png', which is not a file in the directory",
        ),
        ('{"file_name": "../out.png", "text": "x"}', "names '../out.png', which is not a file in"),
    ],
)
def test_garbled_metadata_is_refused(tmp_path: Path, line: str, message: str) -> None:
    folder = tmp_path / "data"
    picture(folder / "a.png")
    picture(tmp_path / "out.png")
    (folder / "metadata.jsonl").write_text(line)
    with pytest.raises(SearchError, match=message):
        read_folder(folder)


def test_folders_without_pictures_or_captions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="there is no directory"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(SearchError, match="has no pictures"):
        read_folder(tmp_path)
    picture(tmp_path / "a.png")
    with pytest.raises(SearchError, match=r"a.png' has no caption; put one into 'a.txt'"):
        read_folder(tmp_path)


def test_pictures_are_cut_to_size_and_damaged_ones_refused(tmp_path: Path) -> None:
    assert load_picture(picture(tmp_path / "a.png"), (4, 6)).shape == (4, 6, 3)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(SearchError, match=r"b.png' holds no picture"):
        load_picture(tmp_path / "b.png", (4, 6))


@pytest.mark.parametrize("name", ["metadata.jsonl", "a.txt"])
def test_captions_that_are_not_utf8_are_refused(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / name).write_bytes('{"file_name": "a.png", "text": "Grün"}'.encode("latin-1"))
    with pytest.raises(SearchError, match=f"{name}' is not UTF-8 text; write it again"):
        read_folder(tmp_path)


def test_pictures_stand_as_their_orientation_says(tmp_path: Path) -> None:
    image, exif = Image.new("RGB", (8, 4)), Image.Exif()
    image.paste((255, 255, 255), (0, 0, 4, 4))
    exif[ExifTags.Base.Orientation] = 6  # the first row is the right-hand side
    image.save(tmp_path / "a.png", exif=exif)
    upright = load_picture(tmp_path / "a.png", (8, 4))
    assert (upright[:3] == 255).all()
    assert (upright[5:] == 0).all()


@pytest.fixture(scope="module")
def sd(pipelines: Callable[[str], Path]) -> Pipeline:
    return open_pipeline(pipelines("shapes-sd"))


def test_the_decoder_undoes_the_encoding(sd: Pipeline) -> None:
    pixels = draw(1, np.random.default_rng(0)).pixels
    latents = np.empty((1, 2, 4, 16, 16), np.float32)
    encode_pictures(sd, lambda first, end: pixels[first:end], 1, latents, lambda *_: None)
    mean = torch.tensor(latents[:, 0]) / sd.pipe.vae.config.scaling_factor
    with torch.no_grad():
        decoded = (sd.pipe.vae.decode(mean).sample[0].permute(1, 2, 0) + 1) * 127.5
    assert (decoded - torch.tensor(pixels[0])).abs().mean() < 4


@pytest.mark.parametrize("name", ["shapes-sd", "shapes-dit", "two-levels"])
def test_noise_is_put_on_as_the_scheduler_does(pipelines: Callable[[str], Path], name: str) -> None:
    scheduler = open_pipeline(pipelines(name), weights=False).pipe.scheduler
    noising = Noising.of(scheduler)
    latents, noise = torch.randn(2, 3, 4, 8, 8).unbind(0)
    steps = torch.tensor([0, 500, 999])
    noisy, wanted = noising.mix(steps, latents, noise)
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, steps))
    if scheduler.config.prediction_type == "v_prediction" and hasattr(scheduler, "get_velocity"):
        noise = scheduler.get_velocity(latents, noise, steps)
    if name != "two-levels":
        torch.testing.assert_close(wanted, noise)


def test_flow_matching_goes_straight_from_latents_to_noise() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    noising = Noising.of(FlowMatchEulerDiscreteScheduler())
    latents, noise = torch.randn(2, 1, 4, 8, 8).unbind(0)
    noisy, wanted = noising.mix(torch.tensor([0]), latents, noise)
    torch.testing.assert_close(noisy, noise)
    torch.testing.assert_close(noisy - wanted, latents)


def test_unknown_schedulers_are_refused() -> None:
    from diffusers import EDMEulerScheduler

    message = "does not know how EDMEulerScheduler puts noise .* with another scheduler$"
    with pytest.raises(SearchError, match=message):
        Noising.of(EDMEulerScheduler())


@pytest.mark.parametrize(
    ("kind", "of_picture"),
    [("epsilon", lambda a, b: (b / a) ** 2), ("v_prediction", lambda _, b: b**2)],
)
def test_weights_turn_errors_into_those_of_the_picture(
    kind: str, of_picture: Callable[[float, float], float]
) -> None:
    a, b = 0.8, 0.6
    noising = Noising(torch.arange(1), torch.tensor([a]), torch.tensor([b]), kind)
    [found] = noising.weights(torch.tensor([0]), 0.0, 1e9).tolist()
    assert found == pytest.approx((a / b) ** 2 * of_picture(a, b), rel=1e-5)
    [capped] = noising.weights(torch.tensor([0]), 0.0, 0.5).tolist()
    assert capped == pytest.approx(0.5 * of_picture(a, b), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "prompts"),
    [
        ("shapes-sd", ("a small red circle left on a grey field", "a large blue cross")),
        ("shapes-dit", ("red circle", "7")),
        ("sdxl", ("one", "two")),
        ("sd3", ("one", "two")),
        ("flux-dev", ("one", "two")),
    ],
)
def test_the_denoiser_is_told_what_the_pipeline_tells_it(
    pipelines: Callable[[str], Path], name: str, prompts: tuple[str, ...]
) -> None:
    pipeline = open_pipeline(pipelines(name))
    height, width = (64, 64) if name.startswith("shapes") else (16, 16)
    made = Conditions(pipeline, (height, width)).arguments(prompts)
    expected = record_call(pipeline, Request(prompts, 2, 1.0).sized((height, width)))
    assert made.keys() == expected.arguments.keys()
    torch.testing.assert_close(made, expected.arguments, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["shapes-sd", "shapes-dit"])
def test_no_caption_is_the_half_without_one(pipelines: Callable[[str], Path], name: str) -> None:
    pipeline = open_pipeline(pipelines(name))
    made = Conditions(pipeline, (64, 64)).arguments([None])
    if name == "shapes-dit":
        assert made["class_labels"].tolist() == [1000]
    else:
        expected = record_call(pipeline, Request(("",), 2, 1.0)).arguments
        torch.testing.assert_close(made["encoder_hidden_states"], expected["encoder_hidden_states"])


def test_the_same_number_draws_the_same_batch(sd: Pipeline) -> None:
    latents = np.random.default_rng(0).standard_normal((4, 2, 4, 16, 16)).astype(np.float32)
    draws = Draws(sd, latents, ["a red circle"] * 4, (64, 64))
    settings = {"drop": 0.5, "floor": 0.1, "cap": 5.0}
    first, again, other = (draws.batch((0, n), 3, **settings) for n in (1, 1, 2))
    torch.testing.assert_close(first.arguments, again.arguments)
    assert not torch.equal(first.arguments["sample"], other.arguments["sample"])
