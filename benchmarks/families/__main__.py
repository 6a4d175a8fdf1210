"""Compile every class of pipelines that has a toy and compare its pictures with diffusers' own.

    python -m benchmarks.families [CLASS ...]

Each toy is searched (`full`), exported and run without PyTorch, for two prompts of unlike length and a
negative one. The table goes to docs/models.md, the figures to results/families.json.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch

from benchmarks import record
from benchmarks.families import image, pictured, table, video
from engines.base import make_engine
from engines.runner import Runner
from exporter.exporting import export
from search.core.errors import SearchError
from search.methods.options import Options
from search.methods.registry import search
from search.model.entry import FRAMES
from search.model.families.text_to_image import call_parameters, scale_argument
from search.model.opening import open_pipeline
from search.model.pictures import SOURCES

if TYPE_CHECKING:
    from benchmarks.families.toy import Toy
    from search.model.pipeline import Pipeline

TOYS = (*image.TOYS, *video.TOYS, *pictured.LED)
NOT_BUILT = {**image.NOT_BUILT, **video.NOT_BUILT}
STEPS, SEED = 3, 5
PIXEL = 1 / 255
PROMPTS = (("a red circle on a blue field", ""), ("dog", "blurry, low quality"))
OWN = ("height", "width", *FRAMES, "class_labels", *SOURCES)
"""Arguments of a call that are options of ours, or pictures."""


@dataclass(frozen=True)
class Row:
    """What became of one class.

    Attributes:
        cls: of pipelines.
        calls: of the denoiser per step.
        blocks: of a step.
        pixel: largest difference of a picture to diffusers', of 1.
        seconds: that search, export and runs took.
        refused: why it was not compiled; empty if it was.
        options: that it was searched with.
    """

    cls: str
    calls: int = 0
    blocks: int = 0
    pixel: float = 0.0
    seconds: float = 0.0
    refused: str = ""
    options: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether the pictures are diffusers'."""
        return not self.refused and self.pixel <= PIXEL


def measure(toy: Toy, folder: Path) -> Row:
    """Compile one toy and compare it."""
    path, started = folder / "pipeline", time.perf_counter()
    toy.build().save_pretrained(path)
    try:
        opened = open_pipeline(path, weights=False)
        extra = {name: value for name, value in toy.call.items() if name not in OWN}
        opened.use_call(extra)
        opened.use_scheduler(None, toy.scheduler)
        options = Options(
            steps=STEPS,
            guidance=toy.guidance,
            height=toy.call.get("height"),
            width=toy.call.get("width"),
            frames=next((toy.call[name] for name in FRAMES if name in toy.call), None),
        )
        subnet = search(opened, "full", options)
        bundle = export(path, subnet, folder / "bundle")
        runner = Runner(bundle, make_engine("onnxruntime", "cpu"))
        pixel = max(_difference(runner, path, toy, *prompts) for prompts in PROMPTS)
    except Exception as error:  # noqa: BLE001  whatever it is, the table says so
        kind = "" if isinstance(error, SearchError) else f"{type(error).__name__}: "
        message = " ".join(str(error).split()).partition(" While executing")[0]
        message = re.sub(r"'[^' ]*/[^' ]*'", "a directory", message)[:300]
        return Row(toy.cls, refused=f"{kind}{message}", seconds=time.perf_counter() - started)
    topology = subnet.topology
    seconds = round(time.perf_counter() - started, 1)
    return Row(toy.cls, len(topology.streams), len(topology.blocks), pixel, seconds)


def _difference(runner: Runner, path: Path, toy: Toy, prompt: str, negative: str) -> float:
    """The largest difference of any pixel to diffusers' own picture."""
    opened = open_pipeline(path)
    opened.use_scheduler(None, toy.scheduler)
    negative = negative if runner.bundle.takes_negative else ""
    if runner.bundle.takes_labels:
        prompt = "3"
    arguments = _arguments(opened, toy, prompt, negative)
    torch.manual_seed(SEED)  # some draw noise without the generator that they are given
    with torch.no_grad():
        try:
            wanted = opened.pipe(**arguments)[0]
        except TypeError:  # some cannot do without a negative prompt
            wanted = opened.pipe(**arguments, negative_prompt="")[0]
        except NotImplementedError:  # some decode in tiles alone
            opened.pipe.vae.enable_tiling()
            wanted = opened.pipe(**_arguments(opened, toy, prompt, negative))[0]
    given = {SOURCES[name]: each for name, each in toy.call.items() if name in SOURCES}
    found = runner.run(prompt, seed=SEED, negative=negative, pictures=given).images / 255
    return float(np.abs(found.reshape(-1) - np.asarray(wanted).reshape(-1)).max())


def _arguments(opened: Pipeline, toy: Toy, prompt: str, negative: str) -> dict[str, Any]:
    """Of diffusers' own call."""
    takes, scale = call_parameters(opened.pipe), scale_argument(opened.pipe)
    wanted: dict[str, Any] = {
        "clean_caption": False,
        "use_resolution_binning": False,
        **toy.call,
        "prompt": prompt,
        "class_labels": [3],
        scale: toy.guidance,
        "num_inference_steps": STEPS,
        "output_type": "np",
        "return_dict": False,
        "generator": torch.Generator().manual_seed(SEED),
    }
    if negative or scale == "true_cfg_scale":
        wanted["negative_prompt"] = negative
    return {name: value for name, value in wanted.items() if name in takes}


def _options(toy: Toy) -> str:
    """What a toy is searched with beside its size, as `stepcarve search` takes it."""
    given = [("scheduler-option", *each) for each in toy.scheduler.items()]
    given += [("call", *each) for each in toy.call.items() if each[0] not in OWN]
    return " ".join(
        f"--{option} {name}={json.dumps(value)}"
        for option, name, value in given
        if not isinstance(value, torch.Tensor)
    )


def main(names: list[str]) -> None:
    """Measure the named classes, or all; earlier rows of the others are kept."""
    warnings.filterwarnings("ignore")
    path = record.RESULTS / "families.json"
    rows, seen = {}, set[str]()
    if names and path.exists():
        rows = {each["cls"]: Row(**each) for each in json.loads(path.read_text())["rows"]}
    for toy in TOYS:
        if names and toy.cls not in names:
            continue
        name = f"{toy.cls}, {toy.build.__name__}" if toy.cls in seen else toy.cls
        seen.add(toy.cls)
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = row = replace(measure(toy, Path(folder)), cls=name, options=_options(toy))
        result = f"{row.pixel * 255:.2f}/255" if not row.refused else row.refused
        click.echo(f"{name:45} {row.seconds:5.1f} s  {result}")
        record.write("families", {"rows": [asdict(rows[each]) for each in sorted(rows)]})
    table.write(list(rows.values()), NOT_BUILT)


if __name__ == "__main__":
    main(sys.argv[1:])
