"""The run side: builds, runs, verifies and measures bundles."""
