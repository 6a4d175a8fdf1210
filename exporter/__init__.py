"""SubNet and pipeline go in, a bundle comes out."""
