"""What a process that was killed has left."""

import os
import platform
from pathlib import Path

from engines.temporary import process_name, remove_stale

GONE = 2**30
"""Above what Linux numbers processes with."""


def test_files_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    kept = [
        tmp_path / f"{process_name('.a-')}.x1.onnx",
        tmp_path / f".a-another-machine-{GONE}.x1.onnx",
    ]
    kept += [tmp_path / "step_0.onnx", tmp_path / f".a-{platform.node()}-x.onnx"]
    left = tmp_path / f".a-{platform.node()}-{GONE}.x1.onnx"
    for path in (*kept, left):
        path.touch()
    remove_stale(tmp_path, ".a-")
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    link = tmp_path / f".a-{platform.node()}-{GONE}"
    link.symlink_to(folder)
    remove_stale(tmp_path, ".a-")
    assert folder.is_dir()
    assert not link.is_symlink()


def test_the_own_name_has_machine_and_process() -> None:
    assert process_name(".a-") == f".a-{platform.node()}-{os.getpid()}"
