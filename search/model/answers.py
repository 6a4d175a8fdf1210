"""What tensors answer when diffusers asks for their values, recorded in a run and repeated in a trace.

A traced tensor has no value. Pipelines ask for some (`mask.sum().tolist()`, `if t >= boundary`), so a
real run records the answers and the trace gives them again. Where the answers of two steps or prompts
differ, their graphs do.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from search.model.replaced import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ASKED = ("tolist", "item", "__bool__", "__int__", "__float__", "__index__")
_ASKER = "/diffusers/"


@dataclass
class Answers:
    """The answers of one run, in order.

    Attributes:
        known: per question, the method that asked, its line in diffusers and the answer.
    """

    known: list[tuple[str, int, Any]] = field(default_factory=list)

    @contextmanager
    def recorded(self, unless: Callable[[], bool]) -> Iterator[None]:
        """While open, note what diffusers asks and is answered, except while `unless()` is true."""
        self.known.clear()

        def note(tensor: Tensor, name: str, line: int, original: Callable[..., Any]) -> Any:
            answer = original(tensor)
            if not unless():
                self.known.append((name, line, answer))
            return answer

        with _asked_through(note):
            yield

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """While open, answer as noted; another question than the noted one is a `RuntimeError`."""
        known = iter(self.known)

        def repeat(tensor: Tensor, name: str, line: int, original: Callable[..., Any]) -> Any:
            del tensor, original
            asked, at, answer = next(known, ("", 0, None))
            if (asked, at) != (name, line):
                msg = (
                    f"the pipeline asks a tensor for its value ({name} in line {line}), which it did not "
                    "do in its own run; its way through a step depends on values"
                )
                raise RuntimeError(msg)
            return answer

        with _asked_through(repeat):
            yield


@contextmanager
def _asked_through(handle: Callable[..., Any]) -> Iterator[None]:
    """While open, questions from diffusers go through `handle(tensor, name, line, original)`."""

    def asking(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def ask(tensor: Tensor) -> Any:
            frame = sys._getframe(1)
            if _ASKER not in frame.f_code.co_filename:
                return original(tensor)
            return handle(tensor, name, frame.f_lineno, original)

        return ask

    with ExitStack() as stack:
        for cls in (Tensor, FakeTensor):
            for name in _ASKED:
                if cls is Tensor or name in vars(cls):
                    stack.enter_context(replaced(cls, name, asking(name, getattr(cls, name))))
        yield


@contextmanager
def tensors_as_numbers() -> Iterator[None]:
    """While open, `torch.tensor` and `torch.full` take tensors `[]` where numbers are expected.

    So a guidance scale or a class that is an input of a trace stays one.
    """
    tensor, full = torch.tensor, torch.full

    def make_tensor(data: Any, **options: Any) -> Tensor:
        if isinstance(data, list) and any(isinstance(each, Tensor) for each in data):
            return torch.stack([torch.as_tensor(each) for each in data]).to(
                device=options.get("device"), dtype=options.get("dtype")
            )
        return tensor(data, **options)

    def make_full(size: Any, fill_value: Any, **options: Any) -> Tensor:
        if isinstance(fill_value, Tensor):
            made = fill_value.to(device=options.get("device"), dtype=options.get("dtype"))
            return made.expand(size)
        return full(size, fill_value, **options)

    with replaced(torch, "tensor", make_tensor), replaced(torch, "full", make_full):
        yield
