"""Long runs: their folders, checkpoints and processes."""
