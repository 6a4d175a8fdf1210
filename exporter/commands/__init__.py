"""The commands that look into SubNets and make bundles."""
