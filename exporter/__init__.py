"""The build side: from a SubNet and its pipeline to a bundle.

`__all__` is what is public; see docs/python.md. Nothing is loaded before it is used.
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
