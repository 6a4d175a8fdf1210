"""The families of pipelines, one file each."""
