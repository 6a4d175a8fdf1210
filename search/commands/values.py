"""Parameter types of options and arguments, beside click's own."""

from __future__ import annotations

import functools
import inspect
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from search.core.errors import SearchError
from search.core.lora import IPAdapter, Lora, scale_of
from search.methods.options import assignment_of, grid_of, keeps_of, names_of, size_of

if TYPE_CHECKING:
    import enum
    from collections.abc import Callable, Iterable

PATH = click.Path(path_type=Path)


class Whole(click.IntRange):
    """A whole number in a range."""

    name = "n"


AT_LEAST_0, AT_LEAST_1, AT_LEAST_2 = Whole(min=0), Whole(min=1), Whole(min=2)


class OneOf(click.Choice[str]):
    """A member of an enumeration, by its value."""

    def __init__(self, members: type[enum.StrEnum]) -> None:
        super().__init__([member.value for member in members])
        self.members = members

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """`value` as a member."""
        if isinstance(value, self.members):
            return value
        return self.members(super().convert(value, param, ctx))


class Number(click.FloatRange):
    """A finite number, in a range where one is given."""

    name = "number"

    def _describe_range(self) -> str:
        """The range, for the help."""
        return "" if self.min is None and self.max is None else super()._describe_range()

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """`value` as a number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


NUMBER = Number()
ABOVE_0 = Number(min=0, min_open=True)
NOT_BELOW_0 = Number(min=0)
SHARE = Number(min=0, max=1)


class PipelineDirectory(click.Path):
    """A diffusers pipeline; refused before the libraries are loaded, which takes seconds."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """`value` as a path to a pipeline."""
        del param, ctx
        from search.core.files import require_pipeline

        require_pipeline(Path(value))
        return Path(value)


class SubNetFile(click.Path):
    """A SubNet; refused before the libraries are loaded."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """`value` as a path to a SubNet."""
        del param, ctx
        from search.core.subnet import SubNet

        SubNet.load(Path(value))
        return Path(value)


class Text(click.ParamType[Any]):
    """A text that `read` turns into a value; `read` raises a `SearchError` if it cannot."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name, self.read = name, read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value that the text stands for; a default is one already."""
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except SearchError as error:
            self.fail(f"{error}.", param, ctx)


def _prompts(file: str) -> tuple[str, ...]:
    from search.methods.prompts import read_prompts  # loads numpy

    return tuple(read_prompts(Path(file)))


PROMPTS_FILE = Text("file", _prompts)
FRACTIONS = Text("fractions", keeps_of)
FALLING = Text("numbers", grid_of)
SIZE = Text("HEIGHTxWIDTH", size_of)
ASSIGNMENT = Text("NAME=VALUE", assignment_of)
LORA_FILE = Text("FILE[:SCALE]", Lora.parse)
IP_ADAPTER_FILE = Text("FILE[:SCALE]", IPAdapter.parse)
LORA_SCALE = Text("NAME=VALUE", scale_of)


class Names(Text):
    """Some of a set of names, in a list such as `a,b`."""

    def __init__(
        self, choices: Iterable[str] | Callable[[], Iterable[str]], *, may_be_empty: bool = False
    ) -> None:
        """`choices` may be a function that is called when they are needed."""
        self._choices, self.may_be_empty = choices, may_be_empty
        super().__init__("names", self._names)

    @functools.cached_property
    def choices(self) -> tuple[str, ...]:
        """The names."""
        choices: Any = self._choices
        return tuple(choices() if inspect.isfunction(choices) else choices)

    def _names(self, text: str) -> tuple[str, ...]:
        return () if self.may_be_empty and not text else names_of(text, self.choices)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The names, for the help."""
        del param, ctx
        return f"[{','.join(self.choices)}]"
