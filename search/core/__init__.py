"""What all stages share: the SubNet, its graph of blocks, its program. No framework."""
