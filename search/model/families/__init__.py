"""What must be said about kinds of pipelines, one file each."""
