"""The runner in Node.js: it knows nothing but docs/formats.md, and makes the same latents."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from engines.base import make_engine
from engines.runner import Runner
from exporter.bundle import Bundle

NODE = Path(__file__).parent.parent.parent / "integrations" / "node"
MISSING = [
    *(["node"] if shutil.which("node") is None else []),
    *(["npm ci in integrations/node"] if not (NODE / "node_modules").exists() else []),
]
TOLERANCE = 1e-5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}"),
]


def node(bundle: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    line = ["node", NODE / "run.mjs", bundle, *arguments]
    return subprocess.run([str(a) for a in line], capture_output=True, text=True, check=False)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("name", "prompt"),
    [("bundle", "a large red cross, and more words than the text encoder reads " * 4),
     ("dit", "red cross")],
)  # fmt: skip
def test_node_makes_our_latents_and_picture(
    made: Path, tmp_path: Path, name: str, prompt: str
) -> None:
    from PIL import Image

    bundle = Bundle.open(made / name)
    noise = np.random.default_rng(3).standard_normal(bundle.latent_shape).astype(np.float32)
    np.save(tmp_path / "noise.npy", noise)
    done = node(
        bundle.path, "--prompt", prompt, "--latents", tmp_path / "noise.npy",
        "--save-latents", tmp_path / "latents.npy", "-o", tmp_path / "picture.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    runner = Runner(bundle, make_engine("onnxruntime", "cpu"))
    ours = runner.run(prompt, latents=noise)
    found = np.load(tmp_path / "latents.npy")
    assert found.shape == ours.latents.shape
    assert relative(found, ours.latents) <= TOLERANCE
    picture = np.asarray(Image.open(tmp_path / "picture.png")).astype(int)
    assert np.abs(picture - ours.images[0]).max() <= 1
    # The comparison sees a wrong input: noise that differs by a thousandth.
    other = runner.run(prompt, latents=noise * np.float32(1.001))
    assert relative(found, other.latents) > TOLERANCE


def test_node_refuses_noise_of_another_shape(made: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", np.zeros(3, np.float32))
    done = node(made / "dit", "--prompt", "red cross", "--latents", tmp_path / "noise.npy")
    assert done.returncode == 2
    assert "3 numbers are given, but the bundle begins from 1 x [1, 4, 16, 16]" in done.stderr


def test_node_refuses_a_changed_file(broken: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", np.zeros(3, np.float32))
    done = node(broken / "changed", "--prompt", "x", "--latents", tmp_path / "noise.npy")
    assert done.returncode == 2
    assert "weights.bin has SHA-256" in done.stderr
