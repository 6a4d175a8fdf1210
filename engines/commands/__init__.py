"""Commands that use an engine: `search`, which may time calls on one, and those that run bundles."""
