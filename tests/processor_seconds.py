"""Which cases take long: measured by a pytest plugin, and kept in lists beside this file.

    pytest -p tests.processor_seconds --seconds FILE [-m "not gpu"]
    python -m tests.processor_seconds FILE

The first command appends a line per case to FILE, with the seconds of processor time that it took, those
of its subprocesses and of fixtures that were made for it included. The second writes the cases that took
longer than a limit to the list of that limit; `conftest.py` marks them with its name. Cases that FILE
does not have stay as they are.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class CaseList:
    """The cases of one mark.

    Attributes:
        mark: that they get.
        slow: whether it is for cases whose source says that they are slow, or for the others.
        limit: seconds of a case that is not in it, on the machine that measured them.
    """

    mark: str
    slow: bool
    limit: float

    @property
    def file(self) -> Path:
        """Where the list is."""
        return Path(__file__).with_name(f"{self.mark}_cases.txt")

    def read(self) -> frozenset[str]:
        """Node ids of its cases."""
        return frozenset(filter(None, self.file.read_text(encoding="utf-8").splitlines()))

    def write(self, measured: dict[str, float]) -> None:
        """Take what is now over the limit, and leave what was not measured."""
        over = {name for name, seconds in measured.items() if seconds > self.limit}
        listed = sorted(over | (self.read() - measured.keys()))
        self.file.write_text("".join(f"{name}\n" for name in listed), encoding="utf-8")


LISTS = (CaseList("long", slow=False, limit=1.5), CaseList("longest", slow=True, limit=20.0))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", type=Path, help="Append the processor time of each case.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    before = _processor_seconds()
    result = yield
    file = item.config.getoption("--seconds")
    if file is not None:
        slow = item.get_closest_marker("slow") is not None
        line = json.dumps([item.nodeid, round(_processor_seconds() - before, 2), slow])
        with file.open("a", encoding="utf-8") as lines:
            lines.write(f"{line}\n")
    return result


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main(file: Path) -> None:
    """Write the lists."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for each in LISTS:
        each.write(
            {name: took for name, took, slow in rows if slow is each.slow and "\n" not in name}
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
