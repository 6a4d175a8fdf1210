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
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree

from search.model.replaced import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ASKED = ("tolist", "item", "__bool__", "__int__", "__float__", "__index__")
_SIZED = {torch: ("zeros", "ones", "empty"), Tensor: ("view", "reshape", "expand", "new_zeros")}
"""Functions that read sizes from tensors without a question that could be heard."""
_ASKER = "/diffusers/"


@dataclass
class Answers:
    """The answers of one run, in order.

    Attributes:
        known: per question, the method that asked, its line in diffusers and the answer.
    """

    known: list[tuple[str, int, Any]] = field(default_factory=list)

    @contextmanager
    def recorded(
        self, unless: Callable[[], bool] = lambda: False, timestep: Tensor | None = None
    ) -> Iterator[None]:
        """While open, note what diffusers asks and is answered, except while `unless()` is true.

        Tensors made of the number that `timestep` or a view of it answers are made of it itself.
        """
        self.known.clear()

        def note(tensor: Tensor, name: str, line: int, original: Callable[..., Any]) -> Any:
            answer = original(tensor)
            if not unless():
                self.known.append((name, line, answer))
            return _answer(tensor, name, answer, timestep)

        with _asked_through(note):
            yield

    @contextmanager
    def repeated(self, timestep: Any = None) -> Iterator[None]:
        """While open, answer as noted; another question than the noted one is a `RuntimeError`.

        Tensors made of the number that `timestep` or a view of it answers are made of it itself.
        """
        known = iter(self.known)

        def repeat(tensor: Tensor, name: str, line: int, original: Callable[..., Any]) -> Any:
            del original
            asked, at, answer = next(known, ("", 0, 0.0))
            if (asked, at) != (name, line):
                msg = (
                    f"the pipeline reads the value of a tensor ({name} in line {line}) that it "
                    "did not read in its own run, so its way through a step depends on values"
                )
                raise RuntimeError(msg)
            return _answer(tensor, name, answer, timestep)

        with _asked_through(repeat):
            yield


class _Answer(float):
    """A number that a tensor answered, which knows the tensor.

    Attributes:
        tensor: `[]`.
    """

    tensor: Tensor

    @classmethod
    def of(cls, tensor: Tensor, number: float) -> _Answer:
        """The answer of a tensor of one number."""
        made = cls(number)
        made.tensor = tensor.reshape(())
        return made


def _answer(tensor: Tensor, name: str, answer: Any, timestep: Any) -> Any:
    """What a tensor answers: a number that knows it, if it is a view of the timestep."""
    is_known = name == "item" and isinstance(timestep, Tensor) and _is_view(tensor, timestep)
    return _Answer.of(tensor, answer) if is_known else answer


def _is_view(tensor: Tensor, of: Tensor) -> bool:
    """Whether a tensor has its numbers where another has."""
    return bool(tensor.untyped_storage()._cdata == of.untyped_storage()._cdata)


def asks_for_values(error: BaseException) -> bool:
    """Whether a trace failed because a tensor was asked for its value."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, GuardOnDataDependentSymNode | DataDependentOutputException):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


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

    def sized(original: Callable[..., Tensor], given: int) -> Callable[..., Tensor]:
        """A function of sizes, `given` arguments before them, that asks tensors among these."""

        def make(*args: Any, **options: Any) -> Tensor:
            sizes = args[given:]
            frame = sys._getframe(1)

            def number(leaf: Any) -> Any:
                if isinstance(leaf, Tensor) and _ASKER in frame.f_code.co_filename:
                    return handle(leaf, "__index__", frame.f_lineno, Tensor.__int__)
                return leaf

            return original(*args[:given], *pytree.tree_map(number, sizes), **options)

        return make

    with ExitStack() as stack:
        for owner, names in _SIZED.items():
            for name in names:
                function = sized(getattr(owner, name), 0 if owner is torch else 1)
                stack.enter_context(replaced(owner, name, function))
        for cls in (Tensor, FakeTensor):
            for name in _ASKED:
                if cls is Tensor or name in vars(cls):
                    stack.enter_context(replaced(cls, name, asking(name, getattr(cls, name))))
        yield


def numbers_among(answers: Answers) -> list[tuple[str, int, Any]]:
    """The answers that are more than yes or no."""
    return [each for each in answers.known if each[0] != "__bool__"]


@contextmanager
def tensors_as_numbers() -> Iterator[None]:
    """While open, `torch.tensor` and `torch.full` take tensors `[]` where numbers are expected.

    So a guidance scale or a class that is an input of a trace stays one.
    """
    tensor, full = torch.tensor, torch.full

    def make_tensor(data: Any, **options: Any) -> Tensor:
        if isinstance(data, _Answer):
            return data.tensor.to(device=options.get("device"), dtype=options.get("dtype")).clone()
        if isinstance(data, Tensor):
            return data.clone()
        if isinstance(data, list) and any(isinstance(each, Tensor) for each in data):
            return torch.stack([torch.as_tensor(each) for each in data]).to(
                device=options.get("device"), dtype=options.get("dtype")
            )
        return tensor(data, **options)

    def make_full(size: Any, fill_value: Any, **options: Any) -> Tensor:
        fill_value = getattr(fill_value, "tensor", fill_value)
        if isinstance(fill_value, Tensor):
            made = fill_value.to(device=options.get("device"), dtype=options.get("dtype"))
            return made.expand(size)
        return full(size, fill_value, **options)

    with replaced(torch, "tensor", make_tensor), replaced(torch, "full", make_full):
        yield
