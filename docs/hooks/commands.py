"""For the site: every command and option, from the command line itself."""

from __future__ import annotations

import html
import inspect
from typing import TYPE_CHECKING

import click

import cli

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mkdocs.structure.pages import Page

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Put the commands where the mark is."""
    del page
    return markdown.replace(MARK, "\n".join(lines())) if MARK in markdown else markdown


def lines() -> Iterator[str]:
    """The Markdown of all commands, under their headings."""
    top = click.Context(cli.main, info_name="stepcarve")
    for title, names in cli.COMMANDS.items():
        yield f"\n## {title}\n"
        for name in names:
            found = cli.main.get_command(top, name)
            assert found is not None, name
            yield from of_command(found, click.Context(found, info_name=name, parent=top))


def of_command(command: click.Command, context: click.Context) -> Iterator[str]:
    """What a command does, how it is called, and its options in their groups."""
    yield f"### {context.command_path}\n"
    yield _as_markdown(command.help or "")
    yield f"\n```\n{context.command_path} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    for group in getattr(command, "option_groups", ()):
        yield from _table(group.title, group.options, context)


def _table(title: str, options: Sequence[click.Parameter], context: click.Context) -> Iterator[str]:
    records = [option.get_help_record(context) for option in options]
    yield f"| {title} | |\n|---|---|"
    for record in records:
        if record is not None:
            names, text = (_escaped(" ".join(each.split())) for each in record)
            yield f"| <code>{names}</code> | {text} |"
    yield ""


def _escaped(text: str) -> str:
    """Nothing in it is Markdown; a long list of choices may break between them."""
    plain = html.escape(text, quote=False).replace("*", r"\*").replace("[", r"\[")
    return plain.replace("_", r"\_").replace("|", "&#124;<wbr>")


def _as_markdown(text: str) -> str:
    """Help text; click marks paragraphs that keep their lines with a backspace."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        f"```\n{each[1:].strip()}\n```" if each.startswith("\b") else _escaped(each)
        for each in paragraphs
    )
