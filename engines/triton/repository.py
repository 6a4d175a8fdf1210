"""A model repository of Triton: the configuration, the model's file and the bundle. No torch."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from engines.base import DEFAULTS, EngineOptions
from engines.batches import of_its_size
from engines.errors import EngineError
from engines.kinds import engine_kind
from engines.triton.inputs import GUIDANCE, IMAGE, NEGATIVE, PROMPT, SEED
from search.core.files import whole_directory

if TYPE_CHECKING:
    from exporter.bundle import Bundle

NAME = re.compile(r"(?!\.)[A-Za-z0-9_.-]+")
MODEL = Path(__file__).with_name("model.py")
INPUTS = (
    (PROMPT, "TYPE_STRING", False),
    (NEGATIVE, "TYPE_STRING", True),
    (GUIDANCE, "TYPE_FP32", True),
    (SEED, "TYPE_UINT32", True),
)
"""Name, type and whether it may be missing."""


@dataclass(frozen=True)
class TritonModel:
    """How Triton runs a bundle.

    Attributes:
        name: of the model.
        engine: as `stepcarve run --engine`.
        device: `cpu` or `cuda`.
        options: of the engine.
        instances: how many processes hold the bundle, on each GPU if the device is one.
    """

    name: str
    engine: str = "onnxruntime"
    device: str = "cpu"
    options: EngineOptions = DEFAULTS
    instances: int = 1

    def __post_init__(self) -> None:
        """Refuse what Triton or the engine would."""
        if not NAME.fullmatch(self.name):
            msg = f"the model's name is {self.name!r}; give letters, digits, '-', '_' and, not first, '.' with --name"
            raise EngineError(msg)
        if self.instances < 1:
            msg = f"--instances is {self.instances}; give 1 or more"
            raise EngineError(msg)
        kind = engine_kind(self.engine)
        kind.require_device(self.device)
        self.options.require_only(self.engine, kind.options[self.device])


def write_model(bundle: Bundle, model: TritonModel, repository: Path) -> Path:
    """Add a model to a repository, which is made if it is not there; returns the model's directory.

    Args:
        bundle: at the size of the pictures that the model makes, one or several per run.
        model: how to run it.
        repository: the directory that `tritonserver --model-repository` is given.

    Raises:
        SearchError: the repository has a model of that name.
        ExportError: the bundle is damaged.
        EngineError: it needs what a request does not carry.
    """
    require_told_in_words(bundle)
    place = repository / model.name
    with whole_directory(place) as folder:
        version = folder / "1"
        version.mkdir()
        for each in of_its_size(bundle):
            each.check()
        shutil.copytree(bundle.path, version / "bundle")
        shutil.copy(MODEL, version)
        (folder / "config.pbtxt").write_text(config_of(bundle, model), encoding="utf-8")
    return place


def require_told_in_words(bundle: Bundle) -> None:
    """Refuse a bundle that begins from more than a prompt and a seed."""
    needs = [*sorted(bundle.pictures), *(["latents"] if bundle.sampler.given else [])]
    if needs:
        msg = (
            f"the bundle {str(bundle.path)!r} cannot be a model of Triton: requests have no input for its "
            f"{' and '.join(needs)}; use stepcarve run"
        )
        raise EngineError(msg)


def config_of(bundle: Bundle, model: TritonModel) -> str:
    """The content of `config.pbtxt`."""
    shape = bundle.shape
    frames = () if shape.frames is None else (shape.frames,)
    dims = ", ".join(map(str, (*frames, shape.height, shape.width, 3)))
    batches = sorted(each.shape.images for each in of_its_size(bundle))
    several = [number for number in batches if number > 1]
    kind = "KIND_GPU" if model.device == "cuda" else "KIND_CPU"
    changed = {f.name: getattr(model.options, f.name) for f in fields(EngineOptions)}
    parameters = {
        "engine": model.engine,
        "options": json.dumps({n: v for n, v in changed.items() if v != getattr(DEFAULTS, n)}),
        "height": str(shape.height),
        "width": str(shape.width),
    }
    return "\n".join(
        [
            f'name: "{model.name}"',
            'backend: "python"',
            f"max_batch_size: {batches[-1]}",
            *(_input(*each) for each in INPUTS),
            f'output {{ name: "{IMAGE}" data_type: TYPE_UINT8 dims: [ {dims} ] }}',
            f'output {{ name: "{SEED}" data_type: TYPE_UINT32 dims: [ 1 ] }}',
            f"instance_group {{ count: {model.instances} kind: {kind} }}",
            *([f"dynamic_batching {{ preferred_batch_size: {several} }}"] if several else []),
            *(
                f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(value)} }} }}'
                for key, value in parameters.items()
            ),
            "",
        ]
    )


def _input(name: str, kind: str, may_be_missing: bool) -> str:
    optional = " optional: true" if may_be_missing else ""
    return f'input {{ name: "{name}" data_type: {kind} dims: [ 1 ]{optional} }}'
