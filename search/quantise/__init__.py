"""From a SubNet to its quantisation plan: which layers of the denoiser are quantised, and how."""
