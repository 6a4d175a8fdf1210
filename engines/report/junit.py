"""Parity as JUnit XML, as CI systems show it: a suite per rung, a case per graph and what is compared."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engines.parity.measure import Difference
    from engines.parity.record import CallParity, Parity, Rung

_CONTROL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold."""


def junit_of(bundle: str, parity: Parity) -> str:
    """The XML; a case that failed has all its sentences as text, the first as its message."""
    root = ET.Element("testsuites", name=f"stepcarve parity of {_clean(bundle)}")
    _add_suite(root, bundle, "program", [("calls, caches and coefficients", parity.program)])
    for rung in parity.rungs:
        _add_suite(root, bundle, rung.name, _cases(rung))
    for name in ("tests", "failures"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _cases(rung: Rung) -> list[tuple[str, tuple[str, ...]]]:
    """Name and failures of each case."""
    groups: dict[str, list[CallParity]] = {}
    for call in rung.calls:
        groups.setdefault(call.graph or "denoiser", []).append(call)
    cases = []
    for graph, calls in groups.items():
        steps = _steps(call.step for call in calls)
        forced = [d for call in calls for d in call.forced.values()]
        cases.append((f"{graph} on given inputs, {steps}", _said(rung, calls, forced, own=False)))
        free = [call.free for call in calls if call.free is not None]
        if free:
            cases.append((f"{graph} on its own way, {steps}", _said(rung, calls, free, own=True)))
    told = {sentence for _, sentences in cases for sentence in sentences}
    rest = tuple(f for f in rung.failures if f not in told)
    if rung.finals or rest:
        cases.append(("final latents, decoder and second pass", rest))
    return cases


def _said(
    rung: Rung, calls: list[CallParity], differences: list[Difference], *, own: bool
) -> tuple[str, ...]:
    """The rung's sentences about these calls, and how many are off: after the first, not each has one."""
    off = sum(not difference.passed for difference in differences)
    if not off:
        return ()
    starts = tuple(f"{call.where}: " for call in calls)
    named = [f for f in rung.failures if f.startswith(starts) and ("on its own way" in f) == own]
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


def _add_suite(
    root: ET.Element, bundle: str, name: str, cases: list[tuple[str, tuple[str, ...]]]
) -> None:
    suite = ET.SubElement(root, "testsuite", name=_clean(name))
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(bool(failures) for _, failures in cases)))
    suite.set("errors", "0")
    for case, failures in cases:
        element = ET.SubElement(suite, "testcase", name=_clean(case))
        element.set("classname", _clean(f"{bundle}.{name}".replace(" ", "-")))
        element.set("time", "0")
        if failures:
            failure = ET.SubElement(element, "failure", message=_clean(failures[0]), type="parity")
            failure.text = _clean("\n".join(failures))


def _clean(text: str) -> str:
    return _CONTROL.sub("?", text)
