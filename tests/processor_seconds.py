"""Which cases take long: measured by a pytest plugin, and kept in `long_cases.txt`.

    pytest -p tests.processor_seconds --seconds FILE [-m "not gpu"]
    python -m tests.processor_seconds FILE

The first command appends a line per case to FILE, with the seconds of processor time that it took, those
of its subprocesses and of fixtures that were made for it included. The second writes the cases that took
longer than `LIMIT` to `long_cases.txt`, which `conftest.py` marks. Cases that FILE does not have stay
as they are.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT = 1.5
"""Seconds of a case that is not long, on the machine that measured them."""
LONG_CASES = Path(__file__).with_name("long_cases.txt")


def long_cases() -> frozenset[str]:
    """Node ids of the cases that take long, besides those whose source says so."""
    return frozenset(filter(None, LONG_CASES.read_text(encoding="utf-8").splitlines()))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", type=Path, help="Append the processor time of each case.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    before = _processor_seconds()
    result = yield
    file = item.config.getoption("--seconds")
    if file is not None:
        line = json.dumps([item.nodeid, round(_processor_seconds() - before, 2)])
        with file.open("a", encoding="utf-8") as lines:
            lines.write(f"{line}\n")
    return result


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main(file: Path) -> None:
    """Write the list."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    measured = {name: seconds for name, seconds, *_ in rows if "\n" not in name}
    long = {name for name, seconds in measured.items() if seconds > LIMIT}
    kept = long_cases() - measured.keys()
    LONG_CASES.write_text("".join(f"{name}\n" for name in sorted(long | kept)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
