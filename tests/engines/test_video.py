"""Videos as files, read back by Pillow and by ffmpeg."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from benchmarks.families.sound import stable_audio
from engines import generate as generation
from engines import video
from engines.errors import EngineError
from engines.runner import Result
from engines.video import MOVING, require_name
from exporter.shape import Shape
from search.core.errors import SearchError
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from search.model.sizing import Sizing
from tests.engines.test_generate import ABOUT

FPS = 8.0


def moving_square(frames: int = 6, size: int = 32) -> np.ndarray:
    made = np.full((frames, size, size, 3), 40, np.uint8)
    for number in range(frames):
        made[number, 8:24, 4 * number : 4 * number + 8] = (200, 60, 30)
    return made


def gif_frames(file: Path) -> tuple[np.ndarray, float]:
    with Image.open(file) as opened:
        frames = []
        for number in range(opened.n_frames):
            opened.seek(number)
            frames.append(np.asarray(opened.convert("RGB")))
        return np.stack(frames), 1000 / opened.info["duration"]


def mp4_frames(file: Path) -> tuple[np.ndarray, float]:
    reader = imageio_ffmpeg.read_frames(str(file))
    about = next(reader)
    width, height = about["size"]
    frames = [np.frombuffer(each, np.uint8).reshape(height, width, 3) for each in reader]
    return np.stack(frames), about["fps"]


# ffmpeg's pipes stay open behind the last frame that is read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("ending", "read", "tolerance"), [(".gif", gif_frames, 8), (".mp4", mp4_frames, 60)]
)
def test_frames_come_back(
    tmp_path: Path,
    ending: str,
    read: Callable[[Path], tuple[np.ndarray, float]],
    tolerance: int,
) -> None:
    frames, file = moving_square(), tmp_path / f"video{ending}"
    MOVING[ending](frames, file, FPS)
    assert [each.name for each in tmp_path.iterdir()] == [file.name]
    found, fps = read(file)
    assert found.shape == frames.shape
    assert fps == pytest.approx(FPS, rel=0.05)
    difference = np.abs(found.astype(int) - frames).max(axis=-1)
    assert np.quantile(difference, 0.95) <= tolerance
    wrong = np.abs(found.astype(int) - frames[::-1]).max(axis=-1)
    assert np.quantile(wrong, 0.95) > tolerance


@pytest.mark.parametrize(
    ("name", "is_video", "message"),
    [
        ("a.gif", False, "the bundle makes pictures, and 'a.gif' is a video; give a .png file"),
        ("a.wav", True, "'a.wav' is a sound file, and stepcarve makes pictures and videos without"),
        (
            "a.jpg",
            False,
            "pictures are PNG files, but the name is 'a.jpg'; give one that ends in .png",
        ),
        (
            "a.avi",
            True,
            "also .gif and .mp4 files, but the name is 'a.avi'; .* .png or .gif or .mp4",
        ),
    ],
)
def test_other_names_are_refused(name: str, is_video: bool, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        require_name(Path(name), is_video=is_video)


def test_an_mp4_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_name(Path("a.png"), is_video=True)
    require_name(Path("a.GIF"), is_video=True)
    monkeypatch.setattr(video, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"pip install imageio-ffmpeg, or stepcarve\[video\]"):
        require_name(Path("a.mp4"), is_video=True)


def test_what_has_no_height_is_refused() -> None:
    with pytest.raises(SearchError, match="no height and width, as for sound; give a pipeline"):
        Sizing(rows=1, factor=8).size((4, 16))


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_frames_and_a_sheet_are_beside_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    frames = moving_square(frames=3)
    result = Result(np.zeros((1, 4), np.float32), frames[None], dict.fromkeys(("condition",), 0.0))
    bundle = SimpleNamespace(shape=Shape(32, 32, 1, 3), calls=[])
    runner: Any = SimpleNamespace(bundle=bundle, on_host=True, run=lambda *_, **__: result)
    monkeypatch.setattr(generation, "_generation", lambda *_: ABOUT)
    [made] = generation.generate(runner, generation.Order(("dog",), images=1), tmp_path / name)
    stills = {"a.png", *(f"a-frame-00{number}.png" for number in range(3))}
    assert {each.name for each in tmp_path.iterdir()} == stills | {name}
    assert [each.name for each in made.images] == [name]
    if name == "a.gif":
        np.testing.assert_array_equal(gif_frames(tmp_path / name)[0], frames)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_pipelines_of_sound_are_refused(tmp_path: Path) -> None:
    stable_audio().save_pretrained(tmp_path / "sound")
    with pytest.raises(SearchError, match="no height and width, as for sound; give a pipeline"):
        search(open_pipeline(tmp_path / "sound", weights=False), "full", Options(steps=2))
