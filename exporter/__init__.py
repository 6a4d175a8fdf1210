"""The build side: compiles a SubNet and its pipeline into a bundle.

`__all__` lists the public names (docs/python.md); each is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from search.core.lazy import lazily

if TYPE_CHECKING:
    from exporter.bundle import Bundle
    from exporter.errors import ExportError
    from exporter.exporting import export

__all__ = ["Bundle", "ExportError", "export"]

__getattr__ = lazily(
    __name__,
    {
        "Bundle": "exporter.bundle",
        "ExportError": "exporter.errors",
        "export": "exporter.exporting",
    },
)
