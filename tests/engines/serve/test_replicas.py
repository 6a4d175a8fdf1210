"""Replicas on a Ray cluster: the pictures of one process, several runs at once, and a replica that dies."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import psutil
import pytest

from engines.errors import EngineError
from engines.serve.replicas import _require_room
from tests.command_line import stepcarve
from tests.engines.serve.gate import pixels


@pytest.fixture(scope="module")
def server(pair: Path) -> Iterator[tuple[subprocess.Popen[str], openai.OpenAI]]:
    """The command with two replicas, and a client of it."""
    line = [sys.executable, "-m", "cli", "serve", str(pair), "--port", "0", "--json"]
    line += ["--parallel", "ray", "--replicas", "2", "--threads", "1"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["models"] == ["pair"]
        with openai.OpenAI(
            base_url=f"{told['address']}/v1", api_key="none", max_retries=0
        ) as client:
            yield process, client
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def replicas(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [each for each in children if "Replica" in " ".join(each.cmdline())]


@pytest.mark.slow
def test_replicas_make_the_pictures_of_one_process(
    server: tuple[subprocess.Popen[str], openai.OpenAI], alone: Callable[..., np.ndarray]
) -> None:
    process, client = server
    asked = [("red", 0), ("blue", 1), ("red", 2), ("green", 3), ("red", 4), ("blue", 5)]
    assert len(replicas(process)) == 2

    def make(prompt: str, seed: int) -> np.ndarray:
        made = client.images.generate(prompt=prompt, extra_body={"seed": seed})
        return pixels(made.data[0].b64_json)  # type: ignore[index]

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(make, *zip(*asked, strict=True)))
    for image, (prompt, seed) in zip(found, asked, strict=True):
        assert np.abs(image.astype(int) - alone(prompt, seed)).max() <= 1
    model = client.models.retrieve("pair").model_dump()["stepcarve"]
    assert model["previews"] is False
    with pytest.raises(openai.BadRequestError, match="or serve without replicas"):
        client.images.generate(prompt="x", stream=True, partial_images=1)
    with pytest.raises(openai.BadRequestError, match="switches guidance off"):
        client.images.generate(prompt="x", extra_body={"guidance_scale": 1.0})


@pytest.mark.slow
def test_a_replica_that_dies_loses_no_request(
    server: tuple[subprocess.Popen[str], openai.OpenAI], alone: Callable[..., np.ndarray]
) -> None:
    process, client = server
    replicas(process)[0].kill()
    for seed in (7, 8):
        made = client.images.generate(prompt="red", extra_body={"seed": seed})
        image = pixels(made.data[0].b64_json)  # type: ignore[index]
        assert np.abs(image.astype(int) - alone("red", seed)).max() <= 1
    assert client.models.list().data[0].id == "pair"


def test_replicas_are_for_a_cluster(pair: Path) -> None:
    refused = stepcarve("serve", pair, "--replicas", 2)
    assert refused.exit_code == 2
    assert "--replicas (with --parallel ray) has no effect here" in refused.stderr


def test_a_cluster_that_is_too_small_is_told_and_not_waited_for() -> None:
    _require_room({"CPU": 2, "GPU": 1.0}, {"CPU": 2, "GPU": 1})
    with pytest.raises(EngineError, match="need 2 GPUs, and the Ray cluster has 0; ask for fewer"):
        _require_room({"CPU": 4}, {"CPU": 2, "GPU": 2})
