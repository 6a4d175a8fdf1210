"""ComfyUI as its nodes see it: a checker and a runner of workflows, written from the documentation of custom nodes.

Sources: docs.comfy.org, "Custom nodes" (properties, data types, widgets, images), and the API format of
workflows. Only what is said there is here.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

WIDGETS = {
    "INT": {"default", "min", "max", "step", "control_after_generate", "display"},
    "FLOAT": {"default", "min", "max", "step", "round", "display"},
    "STRING": {"default", "multiline", "dynamicPrompts", "placeholder"},
    "BOOLEAN": {"default", "label_on", "label_off"},
}
"""The types that have a widget, and their options."""
_NUMBERS = itertools.count()
OPTIONS = {"tooltip", "forceInput", "lazy", "rawLink", "defaultInput"}


class Interrupted(Exception):  # noqa: N818
    """As ComfyUI raises when a user stops a workflow."""


class Host:
    """The modules that ComfyUI offers to its nodes.

    Attributes:
        bars: of progress, in the order made: total, and the updates as value and preview.
        is_stopped: whether the user has stopped the workflow.
    """

    def __init__(self, models: Path) -> None:
        self.bars: list[tuple[int, list[tuple[int, Any]]]] = []
        self.is_stopped = False
        folders: dict[str, list[str]] = {}
        bars = self.bars

        class ProgressBar:
            def __init__(self, total: int) -> None:
                self.total, self.seen = total, []  # type: ignore[var-annotated]
                bars.append((total, self.seen))

            def update_absolute(
                self, value: int, total: int | None = None, preview: Any = None
            ) -> None:
                assert total in (None, self.total)
                self.seen.append((value, preview))

        def throw() -> None:
            if self.is_stopped:
                raise Interrupted

        def add(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
            folders.setdefault(folder_name, []).append(full_folder_path)

        self.modules = {
            "comfy": _module("comfy"),
            "comfy.utils": _module("comfy.utils", ProgressBar=ProgressBar),
            "comfy.model_management": _module(
                "comfy.model_management", throw_exception_if_processing_interrupted=throw
            ),
            "folder_paths": _module(
                "folder_paths",
                models_dir=str(models),
                add_model_folder_path=add,
                get_folder_paths=lambda name: list(folders[name]),
            ),
        }

    def load(self, folder: Path, patch: pytest.MonkeyPatch) -> ModuleType:
        """A package of `custom_nodes`, as ComfyUI loads it."""
        for each, module in self.modules.items():
            patch.setitem(sys.modules, each, module)
        name = f"custom_nodes_{next(_NUMBERS)}"
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, name, package)
        spec.loader.exec_module(package)
        return package


def _module(name: str, **content: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(content)
    return made


def check_node(node: type) -> None:
    """Everything that ComfyUI asks of the class of a node."""
    inputs = node.INPUT_TYPES()  # type: ignore[attr-defined]
    assert set(inputs) <= {"required", "optional", "hidden"}
    assert "required" in inputs
    for group in ("required", "optional"):
        for name, entry in inputs.get(group, {}).items():
            _check_input(name, entry)
    function = getattr(node, node.FUNCTION)  # type: ignore[attr-defined]
    taken = inspect.signature(function).parameters
    offered = {**inputs["required"], **inputs.get("optional", {})}
    assert set(taken) - {"self"} == set(offered)
    for name in inputs.get("optional", {}):
        assert taken[name].default is not inspect.Parameter.empty, name
    returned = node.RETURN_TYPES  # type: ignore[attr-defined]
    assert isinstance(returned, tuple)
    assert all(isinstance(each, str) for each in returned)
    assert len(node.RETURN_NAMES) == len(returned)  # type: ignore[attr-defined]
    assert isinstance(node.CATEGORY, str)  # type: ignore[attr-defined]


def _check_input(name: str, entry: tuple[Any, ...]) -> None:
    assert isinstance(entry, tuple), name
    kind, options = entry[0], entry[1] if len(entry) > 1 else {}
    if isinstance(kind, list):
        assert all(isinstance(each, str) for each in kind), name
        assert options.get("default", kind[0]) in kind, name
        return
    assert kind == kind.upper(), name
    assert set(options) <= WIDGETS.get(kind, set()) | OPTIONS, name
    if kind in ("INT", "FLOAT") and "default" in options:
        assert options["min"] <= options["default"] <= options["max"], name


def run_workflow(
    workflow: Mapping[str, Mapping[str, Any]], nodes: Mapping[str, type]
) -> dict[str, tuple[Any, ...]]:
    """A workflow in the API format: validated, then every node once, links first."""
    made: dict[str, tuple[Any, ...]] = {}

    def give(number: str) -> tuple[Any, ...]:
        if number not in made:
            asked = workflow[number]
            node = nodes[asked["class_type"]]
            inputs = node.INPUT_TYPES()  # type: ignore[attr-defined]
            offered = {**inputs["required"], **inputs.get("optional", {})}
            assert set(inputs["required"]) <= set(asked["inputs"]) <= set(offered)
            values = {
                name: _value(offered[name], value, workflow, nodes, give)
                for name, value in asked["inputs"].items()
            }
            found = getattr(node(), node.FUNCTION)(**values)  # type: ignore[attr-defined]
            for kind, output in zip(node.RETURN_TYPES, found, strict=True):  # type: ignore[attr-defined]
                _check_output(kind, output)
            made[number] = found
        return made[number]

    for number in workflow:
        give(number)
    return made


def _value(
    entry: tuple[Any, ...],
    value: Any,
    workflow: Mapping[str, Mapping[str, Any]],
    nodes: Mapping[str, type],
    give: Callable[[str], tuple[Any, ...]],
) -> Any:
    kind, options = entry[0], entry[1] if len(entry) > 1 else {}
    if isinstance(value, list):
        source, place = value
        giver = nodes[workflow[source]["class_type"]]
        assert giver.RETURN_TYPES[place] == kind  # type: ignore[attr-defined]
        return give(source)[place]
    if isinstance(kind, list):
        assert value in kind
    elif kind in ("INT", "FLOAT"):
        assert options["min"] <= value <= options["max"]
    return value


def _check_output(kind: str, output: Any) -> None:
    if kind == "IMAGE":
        assert output.dtype == torch.float32
        assert output.ndim == 4
        assert output.shape[3] == 3
        assert 0 <= output.min() <= output.max() <= 1
    elif kind == "SIGMAS":
        assert output.dtype == torch.float32
        assert output.ndim == 1
        assert (output.diff() < 0).all()
