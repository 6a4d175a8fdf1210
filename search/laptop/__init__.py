"""LAPTOP-Diff: which layers a denoiser can do without at all steps, and what removing them costs."""
