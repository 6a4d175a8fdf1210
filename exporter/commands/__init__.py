"""Commands that show SubNets and make bundles."""
