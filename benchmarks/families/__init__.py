"""Small pipelines with random weights, one of each class."""
