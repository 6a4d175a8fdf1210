"""The formats that a sampler is exported in. No framework."""

DIFFUSERS = "diffusers"
LISTS = ("timesteps", "sigmas", "comfyui", "sd-cpp")
FORMATS = (DIFFUSERS, *LISTS)
