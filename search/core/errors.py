"""The error a user of the search side sees: one sentence that says what is wrong, where, and what to do."""


class SearchError(ValueError):
    """A pipeline, SubNet or option that the search side cannot use."""
