"""The comparison of carve, DiP-GO and every simple baseline: quality against cost."""
