"""Names of blocks where a step calls its denoiser more than once. Pure.

Each call is a stream. A block's name begins with its stream, `uncond/transformer_blocks.3`, and the whole
denoiser is a block named like the stream. Where a step makes one call, blocks are named like modules.
Where steps do not all make the same calls, see `search/core/groups.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

STREAMS = ("cond", "uncond")
"""Names of the first calls of a step, which see the prompt and the negative prompt."""
_SEPARATOR = "/"


def stream_names(calls: int) -> tuple[str, ...]:
    """Of the calls of a step; the empty name if there is one call."""
    if calls <= 1:
        return ("",)
    return tuple(STREAMS[i] if i < len(STREAMS) else f"call_{i}" for i in range(calls))


def block_name(stream: str, module: str) -> str:
    """The block of a module of the denoiser in a stream; the module `` is the whole denoiser."""
    return _SEPARATOR.join(part for part in (stream, module) if part)


def stream_of(block: str, streams: Collection[str]) -> str:
    """The stream of a block."""
    return block if block in streams else block.rpartition(_SEPARATOR)[0]


def module_of(block: str, streams: Collection[str]) -> str:
    """The module of a block; `` is the whole denoiser."""
    return "" if block in streams else block.rpartition(_SEPARATOR)[2]


def require_one_call(streams: Iterable[str], what: str) -> None:
    """Refuse what works on one call of the denoiser per step.

    Raises:
        SearchError: there are several.
    """
    found = [stream for stream in streams if stream]
    if found:
        msg = (
            f"{what} needs a pipeline that calls its denoiser once per step, and this one makes the calls "
            f"{', '.join(found)}; choose another method, such as carve or dip-go"
        )
        raise SearchError(msg)


def is_inside(inner: str, outer: str) -> bool:
    """Whether a block is inside another."""
    if not inner.startswith(outer) or inner == outer:
        return False
    return not outer or inner[len(outer)] in (".", _SEPARATOR)
