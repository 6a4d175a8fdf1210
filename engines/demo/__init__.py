"""`stepcarve demo`."""
