"""The error a user of an engine sees: one sentence that says what is wrong, where, and what to do."""


class EngineError(RuntimeError):
    """An engine that cannot be made or run."""


class NotRecordedError(EngineError):
    """A library refused a call during recording; outside a recording it may accept it."""


class NotFiniteError(EngineError):
    """A run met a value that is not finite."""
