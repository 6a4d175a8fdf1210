"""PyTorch side: a pipeline goes in, a SubNet comes out."""
