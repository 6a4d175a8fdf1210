"""The build side: from a SubNet and its pipeline to a bundle."""
