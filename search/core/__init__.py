"""What every part of stepcarve speaks: the SubNet, its graph of blocks, its program. No framework."""
