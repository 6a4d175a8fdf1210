"""The error a user of the search side sees: one sentence with what, where and what to do."""


class SearchError(ValueError):
    """A pipeline, SubNet or option that the search side cannot use."""
