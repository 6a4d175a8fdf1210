"""Samplers fitted to the full one, and calls placed through the fit."""
