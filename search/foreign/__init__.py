"""What other projects publish, read as SubNets."""
