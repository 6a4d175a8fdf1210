"""Tests share what they trace: it is most of what an export takes, and has tests of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any, Generic, TypeVar
from unittest import mock

from torch.onnx._internal.exporter._registration import ONNXRegistry

from exporter import traced, variant
from exporter.components import Component
from exporter.quantise import Done
from exporter.quantise import quantise as change
from exporter.trace import Master
from search.core.quantisation import Quantisation
from search.core.subnet import SubNet
from search.model.pipeline import Pipeline

Made = TypeVar("Made")
KEPT = 8
"""Denoisers, and as many of what is around them, that are kept in memory."""


@contextmanager
def traced_once() -> Iterator[None]:
    """Within, exports of SubNets that differ in their actions and samplers alone trace once."""
    denoisers: _Kept[Master] = _Kept()
    ends: _Kept[traced.Ends] = _Kept()

    def trace_denoiser(
        pipeline: Pipeline, subnet: SubNet, bases: Any, images: int, dtype: str
    ) -> Master:
        blocks = repr((subnet.granularity, subnet.topology, sorted(bases)))
        key = (_key(pipeline, subnet, images, dtype), blocks)
        make = partial(traced.trace_denoiser, pipeline, subnet, bases, images, dtype)
        return make() if _has_lora(pipeline) else denoisers.get(key, make)

    def trace_ends(
        pipeline: Pipeline, subnet: SubNet, images: int, dtype: str, rounded: Any
    ) -> traced.Ends:
        key = _key(pipeline, subnet, images, dtype)
        make = partial(traced.trace_ends, pipeline, subnet, images, dtype, rounded)
        made = make() if rounded or _has_lora(pipeline) else ends.get(key, make)
        # These graphs are written as they are; what is carved from a denoiser is a copy.
        return replace(
            made,
            condition=_copy(made.condition),
            decode=_copy(made.decode),
            encode=made.encode and _copy(made.encode),
        )

    def quantise(master: Master, plan: Quantisation) -> Done:
        denoisers.forget(master)  # it is changed in place
        return change(master, plan)

    with ExitStack() as stack:
        for function in (trace_denoiser, trace_ends, quantise):
            stack.enter_context(mock.patch.object(variant, function.__name__, function))
        # torch makes its table of operations anew for each graph, which takes a second.
        table = staticmethod(cache(ONNXRegistry.from_torchlib))
        stack.enter_context(mock.patch.object(ONNXRegistry, "from_torchlib", table))
        yield


class _Kept(Generic[Made]):
    """The latest things that were made, by all that they depend on."""

    def __init__(self) -> None:
        self._known: OrderedDict[object, Made] = OrderedDict()

    def forget(self, made: Made) -> None:
        self._known = OrderedDict((k, each) for k, each in self._known.items() if each is not made)

    def get(self, key: object, make: Callable[[], Made]) -> Made:
        made = self._known.pop(key) if key in self._known else make()
        self._known[key] = made
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return made


def _copy(component: Component) -> Component:
    return Component(component.model.clone(), component.outputs)


def _has_lora(pipeline: Pipeline) -> bool:
    return any(pipeline.weights_of(name)._replaced for name in pipeline.networks) or any(
        "lora" in name for name, _ in pipeline.denoiser.named_parameters()
    )


def _key(pipeline: Pipeline, subnet: SubNet, images: int, dtype: str) -> object:
    """All that the graphs around the loop depend on."""
    files = tuple(
        (str(path), path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(pipeline.path.rglob("*"))
        if path.is_file()
    )
    parts = tuple(
        (name, str(getattr(part, "dtype", ""))) for name, part in pipeline.pipe.components.items()
    )
    bound = repr((subnet.binding, subnet.guidance))
    settings = repr((pipeline._call, pipeline._changed, type(pipeline.pipe.scheduler)))
    return files, parts, bound, settings, images, dtype
