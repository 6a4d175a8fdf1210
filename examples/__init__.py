"""Example pipelines made by this project; not part of the installed distribution."""
