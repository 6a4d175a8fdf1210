"""What commands do to a pipeline before they search it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from search.model.pipeline import Pipeline


def choose_scheduler(pipeline: Pipeline, name: str | None, settings: Mapping[str, Any]) -> None:
    """Give a pipeline the scheduler and the settings that were asked for, if any were."""
    if settings:
        msg = f"this stepcarve cannot change the scheduler's {', '.join(settings)}; leave --scheduler-option out"
        raise SearchError(msg)
    if name is not None:
        pipeline.use_scheduler(name)
