"""The errors of the engines: one sentence that says what is wrong, where, and what to do."""


class EngineError(RuntimeError):
    """An engine cannot be used, or a run failed."""


class NotRecordedError(EngineError):
    """A library refused a call during recording; outside a recording it may accept it."""


class NotFiniteError(EngineError):
    """A run met a value that is not finite."""
