"""Shared data types: the SubNet, its graph of blocks, its program. No framework."""
