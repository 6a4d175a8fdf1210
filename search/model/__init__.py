"""The denoiser as blocks: loading a pipeline, its families, its traced topology, the gated reference."""
