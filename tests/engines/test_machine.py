"""What a measurement was made on."""

import os
from pathlib import Path

import pytest

from engines.machine import cores, describe, processor


@pytest.mark.skipif(
    not Path("/proc/cpuinfo").is_file(), reason="only Linux tells it in this way too"
)
def test_the_processor_and_its_cores_are_those_of_the_system() -> None:
    told = Path("/proc/cpuinfo").read_text()
    assert processor() in told or "model name" not in told
    assert cores() == len(os.sched_getaffinity(0))
    assert describe("cpu") == f"{processor()}, {cores()} cores"
