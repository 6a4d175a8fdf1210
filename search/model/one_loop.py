"""Pipelines that do more than to run one loop of one scheduler on what texts and pictures say."""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from diffusers import DiffusionPipeline

from search.core.errors import SearchError
from search.model.replaced import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EMBEDDED = "_embeds"
"""How arguments end that take what another pipeline has made."""


def require_one_loop(pipe: Any) -> None:
    """Refuse a pipeline that runs others, or needs what another one makes."""
    cls = type(pipe).__name__
    inner = sorted(n for n, part in vars(pipe).items() if isinstance(part, DiffusionPipeline))
    if inner:
        msg = (
            f"{cls} runs {' and '.join(inner)} one after the other, each with a loop of its "
            "own; compile each of them separately"
        )
        raise SearchError(msg)
    takes = inspect.signature(inspect.unwrap(type(pipe).__call__)).parameters
    needed = sorted(
        name
        for name, each in takes.items()
        if name.endswith(EMBEDDED) and each.default is inspect.Parameter.empty
    )
    if needed:
        msg = (
            f"{cls} needs {' and '.join(needed)}, which another pipeline makes and run cannot "
            "take; such pipelines are not supported"
        )
        raise SearchError(msg)


@contextmanager
def other_schedulers_refused(pipe: Any) -> Iterator[None]:
    """While open, a pipeline that steps another scheduler than its own is refused."""

    def refusing(name: str) -> Callable[..., Any]:
        def step(*_: Any, **__: Any) -> Any:
            msg = (
                f"{type(pipe).__name__} first runs another loop, that of its {name}, whose "
                "result depends on the prompt and on noise; such pipelines are not supported"
            )
            raise SearchError(msg)

        return step

    with ExitStack() as stack:
        for name, part in pipe.components.items():
            if name != "scheduler" and hasattr(part, "set_timesteps"):
                stack.enter_context(replaced(part, "set_timesteps", refusing(name)))
        yield
