"""The formats that other projects publish tables in. No framework."""

FORMATS = (
    "dip-go-gates",
    "deepcache",
    "learning-to-cache",
    "smoothcache",
    "cache-dit-mask",
    "lemica",
    "budcache",
    "meancache",
    "openvino-taylorseer",
    "diffusers-taylorseer",
    "timesteps",
    "sigmas",
)
