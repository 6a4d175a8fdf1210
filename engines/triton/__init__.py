"""Bundles as models of Triton Inference Server."""
