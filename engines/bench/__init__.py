"""Seconds and memory of a bundle beside those of PyTorch, taken in turn in one run."""
