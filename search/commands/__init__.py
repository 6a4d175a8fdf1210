"""Commands that make SubNets, and what the commands of all packages share."""
