"""LAPTOP-Diff: one-shot layer pruning, and distillation of what is left."""
