"""The series of a frontier: our search, published rivals and simple baselines, one record each."""
