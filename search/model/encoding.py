"""What a pipeline's encoders return before its loop: the conditions of every step."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils import _pytree as pytree

from search.model.parts_in_place import with_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ENCODERS = re.compile(r"(encode|prepare)_(?!latents$|extra_step_kwargs$)")
"""Methods of a pipeline that make conditions of texts and pictures."""
LABELS = "class_labels"
"""The condition of pipelines that are told a class and no text."""


class Encoding:
    """The returned values of a pipeline's encoders in one call of the pipeline.

    Attributes:
        conditions: the tensors among them, by method and place: `encode_prompt__0`.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self.conditions: dict[str, Tensor] = {}
        self._returned: list[tuple[str, Any]] = []
        self._depth = 0

    @property
    def is_encoding(self) -> bool:
        """Whether an encoder is running, while `noted` is open."""
        return self._depth > 0

    @contextmanager
    def noted(self) -> Iterator[None]:
        """While open, keep what the pipeline's encoders return."""

        def noting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(original)
            def note(*args: Any, **kwargs: Any) -> Any:
                self._depth += 1
                try:
                    made = original(*args, **kwargs)
                finally:
                    self._depth -= 1
                if not self.is_encoding:
                    self._note(name, made)
                return made

            return note

        names = [name for name in dir(type(self._pipe)) if _ENCODERS.match(name)]
        own = {name: noting(name, getattr(self._pipe, name)) for name in names}
        with with_parts(self._pipe, **own):
            yield

    def _note(self, method: str, made: Any) -> None:
        call = sum(known == method for known, _ in self._returned)
        prefix = f"{method}_{call}" if call else method

        def named(path: tuple[Any, ...], leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            name = path_name((prefix, *path))
            self.conditions[name] = leaf
            return _Condition(name)

        self._returned.append((method, pytree.tree_map_with_path(named, made)))

    @contextmanager
    def answering(self, conditions: Mapping[str, Tensor]) -> Iterator[None]:
        """While open, the encoders return what they did, with these tensors in it."""
        returned = iter(self._returned)

        def answer(*_: Any, **__: Any) -> Any:
            return pytree.tree_map(
                lambda leaf: conditions[leaf.name] if isinstance(leaf, _Condition) else leaf,
                next(returned)[1],
            )

        with with_parts(self._pipe, **{method: answer for method, _ in self._returned}):
            yield


@dataclass(frozen=True)
class _Condition:
    """The place of a tensor in what an encoder returned."""

    name: str


def conditions_of(encoding: Encoding, labels: Tensor | None) -> dict[str, Tensor]:
    """All conditions of a pipeline, class labels `[B]` among them if it takes any."""
    return encoding.conditions if labels is None else {LABELS: labels, **encoding.conditions}


def path_name(path: tuple[Any, ...]) -> str:
    """The place of a leaf as an identifier: `added_cond_kwargs__time_ids`."""
    return "__".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)
