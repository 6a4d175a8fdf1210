"""The command line: the group of commands, their errors and exit codes.

Each package brings its own commands, one module per command; a module is loaded when its command runs or
its help is shown. Command modules load no framework until they run.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Any

import click
import cloup

from engines.errors import EngineError, NotFiniteError
from exporter.errors import ExportError
from search.commands.shared import DEBUG
from search.core.errors import SearchError
from search.core.versions import extra_of

FAILED = 1
BAD_INPUT = 2

COMMANDS = {
    "Try it": {"demo": "engines.commands.demo", "doctor": "engines.commands.doctor"},
    "All in one": {"optimize": "engines.commands.optimize"},
    "Decide what runs": {
        "search": "engines.commands.search",
        "frontier": "search.commands.frontier",
        "import": "search.commands.import_table",
        "convert": "search.commands.convert",
        "distill": "search.commands.distill",
        "quantise": "search.commands.quantise",
    },
    "Compile it": {
        "inspect": "exporter.commands.inspect",
        "export": "exporter.commands.export",
        "export-scheduler": "exporter.commands.export_scheduler",
        "build": "engines.commands.build",
    },
    "Prove and use it": {
        "verify": "engines.commands.verify",
        "run": "engines.commands.run",
        "serve": "engines.commands.serve",
        "triton": "engines.commands.triton",
        "bench": "engines.commands.bench",
    },
}
"""Heading -> name of a command -> module that has it as `command`."""
MODULES = {name: module for section in COMMANDS.values() for name, module in section.items()}


class LazyGroup(cloup.Group):
    """Loads a command when it is needed; errors of a command become one sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of the help."""
        del ctx
        return list(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        del ctx
        if cmd_name not in MODULES:
            return None
        return _load(cmd_name)

    def list_sections(
        self, ctx: click.Context, include_default_section: bool = True
    ) -> list[cloup.Section]:
        """The commands under their headings."""
        del ctx, include_default_section
        return [
            cloup.Section(title, {name: _load(name) for name in names})
            for title, names in COMMANDS.items()
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; see the module."""
        try:
            return super().invoke(ctx)
        except (
            click.UsageError, SearchError, ExportError, EngineError, OSError, ModuleNotFoundError,
        ) as error:  # fmt: skip
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            click.echo(f"Error: {_sentence(error)}", err=True)
            sys.exit(FAILED if isinstance(error, NotFiniteError) else BAD_INPUT)


def _load(name: str) -> click.Command:
    command: click.Command = importlib.import_module(MODULES[name]).command
    return command


def _sentence(error: Exception) -> str:
    if isinstance(error, click.UsageError):
        message = " ".join(error.format_message().split()).rstrip(".")
        return f"{message}; see {error.ctx.command_path} --help" if error.ctx else message
    if isinstance(error, ModuleNotFoundError):
        extra = extra_of(error.name or "")
        what = f"extra {extra!r}" if extra else "dependencies"
        return (
            f"this needs {error.name!r}, which is not installed; install stepcarve with its {what}, or run "
            "the command where it is installed"
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename else error.strerror
    return str(error)


@click.group(
    cls=LazyGroup,
    context_settings=cloup.Context.settings(
        help_option_names=["-h", "--help"],
        formatter_settings=cloup.HelpFormatter.settings(max_width=100),
    ),
)
@click.version_option(package_name="stepcarve")
def main() -> None:
    """Make diffusion models faster without retraining, and prove it.

    \b
    PIPELINE is a diffusers directory, the one with model_index.json.
    Everything in one command, with a page that shows what was gained:
      stepcarve optimize PIPELINE -o OUT
    Step by step:
      stepcarve search PIPELINE -o subnet.json --method deepcache
      stepcarve export PIPELINE subnet.json -o BUNDLE
      stepcarve verify BUNDLE --engine onnxruntime
      stepcarve run    BUNDLE --engine onnxruntime --prompt "..." -o image.png
    """  # noqa: D301  click wants the character itself


if __name__ == "__main__":
    main(prog_name="stepcarve")
