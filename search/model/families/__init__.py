"""One file per family of pipelines: what cannot be read off the pipeline itself."""
