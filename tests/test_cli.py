"""The command line as a whole: help, exit codes, what it loads."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from cli import MODULES, main
from tests.command_line import stepcarve

FRAMEWORKS = (
    "torch", "diffusers", "transformers", "onnx", "onnxruntime", "onnx_ir", "onnxscript",
    "matplotlib", "numpy", "polygraphy",
)  # fmt: skip


def test_help_loads_no_framework() -> None:
    code = "import sys, cli; cli.main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & set(FRAMEWORKS)
    assert "\n    stepcarve search PIPELINE" in done.stdout, "the example keeps its lines"


def test_help_takes_less_than_a_third_of_importing_torch() -> None:
    def seconds(*command: str) -> float:
        def once() -> float:
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            return time.perf_counter() - started

        return min(once() for _ in range(3))

    assert seconds("-m", "cli", "--help") < seconds("-c", "import torch") / 3


@pytest.mark.parametrize("name", list(MODULES))
def test_every_command_and_option_has_help(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            sentence = (parameter.help or "").partition("  [")[0]
            assert re.fullmatch(r"[A-Z].*\.", sentence), f"{parameter.name}: {sentence!r}"


def test_the_list_of_commands_cuts_off_no_sentence() -> None:
    commands = stepcarve("--help").stdout.partition("Try it:")[2]
    assert "optimize" in commands
    assert "..." not in commands


def test_cuda_where_there_is_none_is_refused(
    made: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch

    if torch.cuda.is_available():
        return
    for line in (
        ("run", made / "bundle", "--prompt", "x", "-o", tmp_path / "x.png", "--device", "cuda"),
        ("verify", made / "bundle", "--device", "cuda"),
        (
            "search",
            pipelines("three-levels"),
            "-o",
            tmp_path / "x",
            "--method",
            "carve",
            "--device",
            "cuda",
        ),
    ):
        result = stepcarve(*line)
        assert result.exit_code == 2, line
        assert "--device cpu" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_adds_the_traceback(tmp_path: Path) -> None:
    result = stepcarve("inspect", tmp_path / "nowhere", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
