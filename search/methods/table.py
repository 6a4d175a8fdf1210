"""The methods as a table for the docs: `python -m search.methods.table` prints it."""

from __future__ import annotations

from search.methods.registry import METHODS

HEADINGS = ("method", "what it does", "options of its own", "granularity", "cost")


def methods_table() -> str:
    """A row per method, in Markdown; of granularities and costs the first is the default."""
    rows = [HEADINGS, ("---",) * len(HEADINGS)]
    for method in METHODS:
        options = " ".join(f"`--{name}`" for name in method.options)
        rows.append(
            (
                f"`{method.name}`",
                method.help,
                options or "-",
                ", ".join(method.granularities),
                ", ".join(method.costs) or "-",
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    import click

    click.echo(methods_table())
