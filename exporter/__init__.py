"""Build side: exports a SubNet and its pipeline as a bundle."""
