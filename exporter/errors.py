"""The error of the exporter: one sentence that says what is wrong, where, and what to do."""


class ExportError(RuntimeError):
    """A bundle cannot be exported or read."""
