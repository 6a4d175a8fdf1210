"""The error of the search side: one sentence that says what is wrong, where, and what to do."""


class SearchError(ValueError):
    """A pipeline, SubNet or option cannot be used."""
