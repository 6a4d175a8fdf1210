"""The error a user of the exporter sees: one sentence that says what is wrong, where, and what to do."""


class ExportError(RuntimeError):
    """An export or a bundle that cannot be made or read."""
