"""From a SubNet to the plan that says which layers of its denoiser multiply in few bits."""
