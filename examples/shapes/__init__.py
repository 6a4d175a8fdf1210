"""Two small diffusion pipelines trained on captioned pictures of shapes, and how they were trained."""
