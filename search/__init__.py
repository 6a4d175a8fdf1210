"""PyTorch side: searches a SubNet for a pipeline."""
