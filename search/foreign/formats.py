"""The formats that other projects publish tables in. No framework."""

FORMATS = ("dip-go-gates", "deepcache", "learning-to-cache", "cache-dit-mask")
