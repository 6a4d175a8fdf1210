"""The error a user of an engine sees: one sentence with what, where and what to do."""


class EngineError(RuntimeError):
    """An engine that cannot be made or run."""


class NotRecordedError(EngineError):
    """A library did not start a call while calls were recorded; outside of a recording it may."""


class NotFiniteError(EngineError):
    """A run met a value that is not finite."""
