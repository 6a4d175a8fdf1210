"""LAPTOP-Diff: the layers to remove at all steps, and the loss of removing them."""
