"""Names of the inputs and outputs of a denoiser's graph, wherever it is traced or run."""

SAMPLE = "sample"
"""The denoiser's latents input, `[B, C, H, W]`, or as the pipeline packs it."""
TIMESTEP = "timestep"
"""A scalar."""
GUIDANCE = "guidance_scale"
"""A scalar."""
PREDICTION = "noise_prediction"
"""`[B, C, H, W]`, or as the pipeline packs it; guidance applied."""
LATENTS = "latents"
"""The decoder's input, `[B, C, H, W]`, or as the pipeline packs it."""
IMAGE = "image"
"""The decoder's output, `[B, 3, height, width]` in 0..1."""
DENOISER = "denoiser"
NETWORKS = "networks."
"""Where the networks are in what is traced, and so before the names of their weights: the denoiser, and
before the names of others that take its place at some steps."""
TRANSPOSED = ".T"
"""Ending of an initializer that is a parameter transposed."""


def layer_of(parameter: str) -> str:
    """What a plan of quantisation calls the weights that a graph calls `parameter`."""
    name = parameter.removesuffix(TRANSPOSED)
    return name.removeprefix(f"{DENOISER}.").removeprefix(NETWORKS)
