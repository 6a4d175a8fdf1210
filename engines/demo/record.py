"""What the demo found: a row per sampler, and the parity of one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from engines.parity import Parity


@dataclass(frozen=True)
class DemoRow:
    """One line of the table.

    Attributes:
        name: of the method.
        calls: of the denoiser per picture.
        macs: multiply-accumulates per picture and guidance half.
        seconds: of the loop per picture, median.
        psnr: mean over the pictures of the PSNR to the full sampler's, in dB; None for itself.
        accuracy: attribute -> share of pictures that show what their prompt names.
    """

    name: str
    calls: int
    macs: int
    seconds: float
    psnr: float | None
    accuracy: dict[str, float]


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Attributes:
        title: of the table.
        rows: one per contender; the first is the full sampler.
        proved: the number of the row that was compared with PyTorch.
        parity: of that row.
        page: shows all of it.
    """

    title: str
    rows: tuple[DemoRow, ...]
    proved: int
    parity: Parity
    page: Path

    @property
    def headings(self) -> tuple[str, ...]:
        """Of the table."""
        columns = ("method", "calls", "MACs", "s / picture", "speedup", "PSNR to full")
        return (*columns, *self.rows[0].accuracy)

    def cells(self, row: DemoRow) -> tuple[str, ...]:
        """A line of the table."""
        return (
            row.name,
            str(row.calls),
            f"{row.macs / 1e9:.2f} G",
            f"{row.seconds:.2f}",
            f"{self.rows[0].seconds / row.seconds:.2f} x",
            "-" if row.psnr is None else f"{row.psnr:.1f} dB",
            *(f"{share:.0%}" for share in row.accuracy.values()),
        )

    def table(self) -> Table:
        """All lines, for the terminal."""
        from rich.table import Table

        method, *others = self.headings
        table = Table(title=f"{self.title}, ONNX Runtime on the CPU")
        table.add_column(method, no_wrap=True)
        for heading in others:
            table.add_column(heading, justify="right")
        for row in self.rows:
            table.add_row(*self.cells(row))
        return table
