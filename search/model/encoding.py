"""What a pipeline's encoders return before its loop: the conditions of every step."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor
from torch.utils import _pytree as pytree
from transformers import PreTrainedModel

from search.model.entry import preparation_of
from search.model.parts_in_place import with_parts
from search.model.replaced import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ENCODERS = re.compile(
    r"_encode_prompt$|(encode|prepare)_(?!latents$|extra_step_kwargs$|class_labels$)"
)
"""Methods of a pipeline that make conditions of texts and pictures."""
_POSTERIOR = frozenset({"sample", "mode"})
_READERS = (
    (VaeImageProcessor, "preprocess"),
    *((DiagonalGaussianDistribution, method) for method in sorted(_POSTERIOR)),
)
"""Classes and their methods that make conditions of pictures outside of these."""
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

        def noting(
            name: str, original: Callable[..., Any], encodes: Callable[..., bool] = _always
        ) -> Callable[..., Any]:
            @wraps(original)
            def note(*args: Any, **kwargs: Any) -> Any:
                if not encodes(*args, **kwargs):
                    return original(*args, **kwargs)
                self._depth += 1
                try:
                    made = original(*args, **kwargs)
                finally:
                    self._depth -= 1
                if not self.is_encoding:
                    self._note(name, made)
                return made

            return note

        names = {name for name in dir(type(self._pipe)) if _ENCODERS.match(name)}
        names.discard(preparation_of(self._pipe) or "")
        own = {name: noting(name, getattr(self._pipe, name)) for name in names}
        with ExitStack() as stack:
            stack.enter_context(with_parts(self._pipe, **own))
            for owner, method in _READERS:
                around = noting(method, getattr(owner, method))
                stack.enter_context(replaced(owner, method, around))
            for name, part in self._pipe.components.items():
                if isinstance(part, PreTrainedModel):
                    around = noting(name, part.forward, _reads_tokens)
                    stack.enter_context(replaced(part, "forward", around))
            yield

    @property
    def parts(self) -> set[str]:
        """Names of the models that encode outside of the pipeline's methods."""
        return {name for name, _ in self._returned if name in self._pipe.components}

    def _note(self, method: str, made: Any) -> None:
        call = sum(known == method for known, _ in self._returned)
        name = f"vae_{method}" if method in _POSTERIOR else method  # `sample` are the latents
        prefix = f"{name}_{call}" if call else name

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

        methods = {method for method, _ in self._returned}
        with ExitStack() as stack:
            if methods & _POSTERIOR:
                stack.enter_context(with_parts(self._pipe.vae, encode=_encoded))
            for owner, method in _READERS:
                if method in methods:
                    stack.enter_context(replaced(owner, method, answer))
            for name in self.parts:
                stack.enter_context(replaced(getattr(self._pipe, name), "forward", answer))
            own = methods - {method for _, method in _READERS} - self.parts
            stack.enter_context(with_parts(self._pipe, **dict.fromkeys(own, answer)))
            yield


def _always(*_: Any, **__: Any) -> bool:
    return True


def _reads_tokens(*args: Any, input_ids: Any = None, **_: Any) -> bool:
    """Whether a model is called with token ids."""
    [first, *_rest] = [*args, input_ids]
    return isinstance(first, Tensor) and not first.is_floating_point()


def _encoded(*_: Any, return_dict: bool = True, **__: Any) -> Any:
    """What an autoencoder makes of a picture, without values: what is sampled of it is known."""
    posterior = DiagonalGaussianDistribution(torch.zeros(1, 2, 1, 1))
    return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)


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
