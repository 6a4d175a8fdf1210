"""The step that a gated denoiser is at, for hooks inside of it, which see only their module's inputs."""

from __future__ import annotations

from contextvars import ContextVar

_STEP: ContextVar[int] = ContextVar("step")


def enter_step(step: int) -> None:
    """Say that a step of a SubNet begins."""
    _STEP.set(step)


def current_step() -> int:
    """The step that began last.

    Raises:
        LookupError: none did, for no denoiser was called while `gated` was open.
    """
    return _STEP.get()
