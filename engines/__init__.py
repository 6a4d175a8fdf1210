"""Run side: builds, runs, verifies and measures bundles."""
