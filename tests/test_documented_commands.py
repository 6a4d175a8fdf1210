"""Every command that a page names, in a block or in a sentence, is one that the command line takes.

Other tests run the blocks marked `sh`; this one reads also what needs a GPU, a cluster or somebody's own files.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli import MODULES, main
from search.commands.values import Names
from tests.test_links import PAGES, ROOT, tokens

CHECKED = (click.Choice, click.IntRange, click.FloatRange, Names)
"""Types whose values need no file."""


def code(page: Path) -> Iterator[str]:
    """Blocks, and what stands in code within sentences."""
    for token in tokens(page):
        if token.type in ("fence", "code_block"):
            yield token.content
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content


def commands(page: Path) -> list[list[str]]:
    """Lines of `stepcarve`, as words, without its name; and `run --preview` for `stepcarve run --preview`."""
    found = []
    for text in code(page):
        for line in text.replace("\\\n", " ").splitlines():
            named = re.match(r"\s*stepcarve\s+(.*)", line)
            short = re.match(rf"({'|'.join(MODULES)}) --[a-z].*", line)
            if match := named or short:
                found.append(shlex.split(match[1] if named else match[0], comments=True))
    return [words for words in found if words]


def problems(words: list[str]) -> list[str]:
    """What the command line would not take of it; capitals and `...` stand for what one fills in."""
    name, *rest = words
    if name.startswith("-") or name.isupper():
        return []
    if name not in MODULES:
        return [f"there is no command {name!r}"]
    context = click.Context(main)
    command = main.get_command(context, name)
    assert command is not None
    options = {
        flag: p for p in command.get_params(context) for flag in (*p.opts, *p.secondary_opts)
    }
    wrong = []
    for word, value in itertools.pairwise([*rest, ""]):
        flag, given, attached = word.partition("=")
        if not re.fullmatch(r"-o|--[a-z][a-z-]*", flag):
            continue
        if flag not in options:
            wrong.append(f"{name} has no option {flag}")
            continue
        wrong += refused(options[flag], attached if given else value, context)
    return wrong


def refused(option: click.Parameter, value: str, context: click.Context) -> list[str]:
    """Why an option does not take a value, if it is one that can be checked."""
    is_open = not value or value.startswith("-") or re.search(r"[A-Z]|\.\.\.|\||…", value)
    if not isinstance(option.type, CHECKED) or is_open:
        return []
    try:
        option.type(value, option, context)
    except click.UsageError as error:
        return [f"{option.opts[-1]} {value}: {error.format_message()}"]
    return []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_command_line_takes_what_a_page_says(page: Path) -> None:
    assert [each for words in commands(page) for each in problems(words)] == []


def test_a_wrong_command_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`stepcarve serch PIPELINE`, `stepcarve run BUNDLE --promt x`, `stepcarve COMMAND --help`,\n"
        "`run --num-images 0`, `run --num-images N`, `stepcarve search --method carv`\n\n"
        "```sh\nstepcarve optimize PIPELINE -o out \\\n    --quality fast # --comment\n```\n"
    )
    found = [each for words in commands(page) for each in problems(words)]
    assert found[:2] == ["there is no command 'serch'", "run has no option --promt"]
    assert [each.split(":")[0] for each in found[2:]] == [
        "--num-images 0", "--method carv", "--quality fast",
    ]  # fmt: skip
