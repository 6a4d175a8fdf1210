"""What came out, read from the files of all stages: `result.json`."""

from __future__ import annotations

import shlex
import statistics
from typing import TYPE_CHECKING, Any

from engines.kinds import engine_names
from engines.machine import describe
from engines.optimize.forms import forms_of
from engines.report import PACKAGES
from search.core.subnet import SubNet
from search.core.summary import summarise
from search.core.versions import environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engines.optimize.folder import OptimizeFolder
    from engines.optimize.forms import Form
    from engines.optimize.settings import OptimizeSettings


def holding(
    folder: OptimizeFolder, form: str, names: Sequence[str], device: str
) -> tuple[str, ...]:
    """The engines for which parity holds, and all rungs below them."""
    report = folder.parity(form) / "parity.json"
    if not report.is_file():
        return ()
    passed: dict[str, bool] = {
        rung["name"]: rung["passed"] for rung in folder.read(report)["rungs"]
    }
    engines = tuple(f"{name} on " for name in engine_names())
    if not all(holds for name, holds in passed.items() if not name.startswith(engines)):
        return ()
    wanted = {name: (f"{name} on {device}", f"{name} on {device} in {form}") for name in names}
    return tuple(name for name in names if any(passed.get(rung) for rung in wanted[name]))


def outcome_of(folder: OptimizeFolder, settings: OptimizeSettings) -> dict[str, Any]:
    """The record; see docs/formats.md."""
    engines = folder.read(folder.engines)
    summary = summarise(SubNet.load(folder.subnet))
    shown = folder.read(folder.quality / "pictures.json")
    quality = shown["points"]["ours"]
    forms = forms_of(folder, settings)
    rows = [row for form in forms for row in _rows(folder, form, engines, shown, settings)]
    taken = min(rows, key=lambda row: row["seconds"], default=None)
    failed = _failures(folder, engines, settings)
    met = settings.goal.is_met(error=quality["error"], psnr=quality["psnr"])
    record = {
        "passed": taken is not None and not failed and met,
        "goal": str(settings.goal),
        "goal_met": met,
        "method": summary["method"],
        "calls": summary["calls"],
        "full_calls": summary["full_calls"],
        "macs_ratio": summary["macs_full"] / summary["macs_kept"],
        "quality": quality,
        "fewer_steps": shown["points"]["fewer"],
        "told_apart": shown["told_apart"],
        "taken": taken,
        "measured": rows,
        "parity_failures": failed,
        "run": None if taken is None else run_command(taken, shown),
        "not_done": {**engines["left_out"], **_not_done(settings)},
        "times": folder.times(),
        "environment": {"machine": describe(settings.device), **environment(PACKAGES)},
    }
    return {**record, "verdict": verdict(record, settings)}


def _rows(
    folder: OptimizeFolder,
    form: Form,
    engines: dict[str, Any],
    shown: dict[str, Any],
    settings: OptimizeSettings,
) -> list[dict[str, Any]]:
    """The SubNet's row of every engine that was measured in one form."""
    file = folder.bench(form.name) / "bench.json"
    if not file.is_file():
        return []
    rows = folder.read(file)["rows"]
    eager = next((row for row in rows if row["kind"] == "eager" and "seconds" in row), None)
    quality = shown["points"]["ours" if form.plan is None else form.name]
    found = []
    for name in engines["engines"][form.name]:
        mine = [row for row in rows if row["kind"] == "engine" and row["engine"] == name]
        if mine:
            full, ours = mine[0], mine[-1]  # the same if the SubNet is the full sampler
            found.append(
                {
                    "engine": name,
                    "device": settings.device,
                    "dtype": form.dtype,
                    "precision": form.name,
                    "bundle": str(folder.bundle(form.name)),
                    "seconds": ours["seconds"]["median"],
                    "full_seconds": full["seconds"]["median"],
                    "pytorch_seconds": None if eager is None else eager["seconds"]["median"],
                    "speedup": _speedup(ours, full),
                    "speedup_over_pytorch": None if eager is None else _speedup(ours, eager),
                    "memory_bytes": _memory(ours),
                    "error": quality["error"],
                    "psnr": quality["psnr"],
                }
            )
    return found


def _memory(row: dict[str, Any]) -> int | None:
    """Of its process while it ran; None where the system does not say."""
    memory = row.get("memory")
    return None if memory is None else memory["own"] + memory["mapped"]


def _speedup(ours: dict[str, Any], other: dict[str, Any]) -> float:
    """Median over the rounds, in each of which whatever else the machine does hits both alike."""
    pairs = zip(other["samples"], ours["samples"], strict=True)
    ratios: list[float] = [theirs["seconds"] / mine["seconds"] for theirs, mine in pairs]
    return statistics.median(ratios)


def _failures(
    folder: OptimizeFolder, engines: dict[str, Any], settings: OptimizeSettings
) -> list[str]:
    """Engines for which parity does not hold, in words."""
    return [
        f"{name} in {dtype}"
        for dtype, names in engines["engines"].items()
        for name in names
        if name not in holding(folder, dtype, names, settings.device)
    ]


def run_command(taken: dict[str, Any], shown: dict[str, Any]) -> str:
    """The line that makes a picture."""
    words = ["stepcarve", "run", taken["bundle"], "--engine", taken["engine"]]
    words += [] if taken["device"] == "cpu" else ["--device", taken["device"]]
    words += ["--label" if shown["classes"] else "--prompt", shown["prompts"][0]]
    return shlex.join([*words, "--seed", "1", "-o", "picture.png"])


def verdict(record: dict[str, Any], settings: OptimizeSettings) -> str:
    """What to tell others, in a few sentences."""
    taken, fewer = record["taken"], record["fewer_steps"]
    if taken is None:
        return f"Parity fails: {', '.join(record['parity_failures'])}. No engine was chosen."
    eager, failed = taken["speedup_over_pytorch"], ", ".join(record["parity_failures"])
    over = "" if eager is None else f", {eager:.2f} x faster than diffusers in PyTorch"
    speed = (
        f"{taken['speedup']:.2f} x faster than the full sampler on {taken['engine']} in "
        f"{taken['precision']}{over}: {taken['seconds']:.3g} s per run; {record['macs_ratio']:.2f} x fewer "
        f"MACs, {record['calls']} of {record['full_calls']} calls."
    )
    likeness = (
        f"Its pictures are at {_decibels(taken['psnr'])} PSNR from the full sampler's; those of fewer "
        f"steps, at {fewer['cost'] / record['quality']['cost']:.0%} of its cost, at {_decibels(fewer['psnr'])}"
        f"{'' if record['told_apart'] else '; the difference may be chance'}."
    )
    parity = (
        f"Parity FAILS for {failed}, which was not chosen."
        if failed
        else "Parity with PyTorch holds."
    )
    sentences = [speed, likeness, parity]
    if not record["goal_met"]:
        sentences.append(
            f"The goal, {settings.goal}, is MISSED: no cost that was tried reaches it."
        )
    return " ".join(sentences)


def _decibels(psnr: float) -> str:
    return "identical" if psnr >= 100 else f"{psnr:.1f} dB"


def _not_done(settings: OptimizeSettings) -> dict[str, str]:
    """What nobody should think was done."""
    found = {
        "other methods": f"only {settings.method} was searched; stepcarve frontier compares all of them",
        "judgement by people": f"quality is the distance to the full sampler on {settings.tier.held_out} "
        "pictures that no search has seen; nobody has looked at them",
        "other sizes and batches": "one size, one picture per run; stepcarve export --size --batch adds others",
    }
    halves = [dtype for dtype in settings.dtypes if dtype != "float32"]
    if halves:
        found[f"quality in {', '.join(halves)}"] = (
            "distances and pictures are those of the SubNet in float32; parity says how far each type is "
            "from them"
        )
    tier = settings.tier
    if tier.iterations < 1:
        found["the whole search"] = (
            f"--quality {tier.name} uses {tier.pictures:.0%} of the method's usual pictures and "
            f"{tier.iterations:.0%} of its iterations; --quality good finds better SubNets"
        )
    return found
