"""The SuperNet: gates for every block of every step, through which gradients reach them."""
