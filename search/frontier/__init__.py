"""The honest comparison: our recipe, the paper's and every simple baseline, quality against cost."""
