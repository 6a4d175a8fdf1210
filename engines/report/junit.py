"""Parity as JUnit XML, as CI systems show it: a suite per rung, a case per graph and what is compared."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from junitparser import Failure, JUnitXml, TestCase, TestSuite

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engines.parity.measure import Difference
    from engines.parity.record import CallParity, Parity, Rung

_CONTROL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold."""


def junit_of(bundle: str, parity: Parity) -> str:
    """The XML; a case that failed has all its sentences as text, the first as its message."""
    report = JUnitXml(_clean(f"stepcarve parity of {bundle}"))
    for rung in parity.rungs:
        report.add_testsuite(_suite(bundle, rung))
    report.update_statistics()  # type: ignore[no-untyped-call]
    text: bytes = report.tostring()  # type: ignore[no-untyped-call]
    return text.decode() + "\n"


def _suite(bundle: str, rung: Rung) -> TestSuite:
    suite = TestSuite(_clean(rung.name))
    for name, failures in _cases(rung):
        group = _clean(f"{bundle}.{rung.name}".replace(" ", "-"))
        case = TestCase(_clean(name), group, 0)
        if failures:
            failure = Failure(_clean(failures[0]), "parity")
            failure.text = _clean("\n".join(failures))
            case.result = [failure]
        suite.add_testcase(case)
    return suite


def _cases(rung: Rung) -> list[tuple[str, tuple[str, ...]]]:
    """Name and failures of each case."""
    if not rung.calls:
        return [("calls, caches and coefficients", rung.failures)]
    groups: dict[str, list[CallParity]] = {}
    for call in rung.calls:
        groups.setdefault(call.graph or "denoiser", []).append(call)
    cases = []
    for graph, calls in groups.items():
        steps = _steps(call.step for call in calls)
        forced = [d for call in calls for d in call.forced.values()]
        cases.append(
            (f"{graph} on given inputs, {steps}", _failures_of(rung, calls, forced, own=False))
        )
        free = [call.free for call in calls if call.free is not None]
        if free:
            cases.append(
                (
                    f"{graph} on its own trajectory, {steps}",
                    _failures_of(rung, calls, free, own=True),
                )
            )
    known = {sentence for _, sentences in cases for sentence in sentences}
    rest = tuple(f for f in rung.failures if f not in known)
    if rung.finals or rest:
        cases.append(("final latents, decoder and second pass", rest))
    return cases


def _failures_of(
    rung: Rung, calls: list[CallParity], differences: list[Difference], *, own: bool
) -> tuple[str, ...]:
    """The rung's sentences about these calls, and how many are off: after the first, not each has one."""
    off = sum(not difference.passed for difference in differences)
    if not off:
        return ()
    starts = tuple(f"{call.where}: " for call in calls)
    named = [
        f for f in rung.failures if f.startswith(starts) and ("on its own trajectory" in f) == own
    ]
    return (*named, f"{off} of {len(differences)} tensors are off")


def _steps(steps: Iterable[int]) -> str:
    """As `steps 0-3, 7`."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][1] + 1:
            runs[-1][1] = step
        else:
            runs.append([step, step])
    named = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
    return f"step{'s' if len(runs) > 1 or runs[0][0] != runs[0][1] else ''} {named}"


def _clean(text: str) -> str:
    return _CONTROL.sub("?", text)
