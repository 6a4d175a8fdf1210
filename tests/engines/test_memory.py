"""What a process holds: pages counted once."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from engines.memory import mapped_bytes, while_running

REGION = """\
7f00-7f{end} r--p {offset} fe:00 {inode} {path}
Size:              40 kB
Rss:               {rss} kB
Anonymous:         {own} kB
VmFlags: rd mr mw me
"""


def told(*regions: dict[str, object]) -> int:
    return mapped_bytes("".join(REGION.format(**each) for each in regions).splitlines())


def region(
    offset: int, rss: int, own: int = 0, inode: int = 7, path: str = "/w.bin"
) -> dict[str, object]:
    return {
        "end": 10,
        "offset": f"{offset:08x}",
        "rss": rss,
        "own": own,
        "inode": inode,
        "path": path,
    }


def test_what_is_mapped_twice_counts_once() -> None:
    assert told(region(0, 8), region(0, 12), region(4096, 4)) == 16 * 1024


def test_what_is_nobodys_file_or_was_written_to_does_not_count() -> None:
    assert told(region(0, 8, own=3), region(0, 20, inode=0, path="[heap]")) == 5 * 1024


def test_a_peak_between_two_points_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "pages"
    file.write_bytes(bytes(2**22))
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as pages:

        def run() -> None:
            held = np.ones(2**23)
            for _ in range(20):
                held.sum()
            pages[:].count(b"x")

        small, large = while_running(lambda: None), while_running(run)
    assert small is not None
    assert large is not None
    assert large.own - small.own > 2**25
    assert large.mapped - small.mapped > 2**21
    assert large.total == large.own + large.mapped
