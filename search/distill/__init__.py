"""Layers taken out of a pipeline for good, and the rest trained."""
