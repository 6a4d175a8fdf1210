"""DiP-GO: gates for every block of every step, found by gradients through the whole sampler."""
