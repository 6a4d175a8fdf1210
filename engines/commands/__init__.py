"""The commands that build, verify, run and measure bundles."""
