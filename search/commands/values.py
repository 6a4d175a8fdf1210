"""Parameter types of options and arguments, beside click's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from search.core.errors import SearchError

if TYPE_CHECKING:
    import enum
    from collections.abc import Iterable

    from search.core.lora import Lora

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


class _Text(click.ParamType[Any]):
    """A parameter type read from a text; `_read` raises a `SearchError`."""

    def _read(self, text: str) -> Any:
        raise NotImplementedError

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """What `value` stands for."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except SearchError as error:
            self.fail(f"{error}.", param, ctx)


class PromptsFile(_Text):
    """A text file with a prompt per line."""

    name = "file"

    def _read(self, text: str) -> tuple[str, ...]:
        from search.methods.prompts import read_prompts

        return tuple(read_prompts(Path(text)))


class Fractions(_Text):
    """Fractions in a list such as `0.2,0.3,0.5`."""

    name = "fractions"

    def _read(self, text: str) -> tuple[float, ...]:
        from search.methods.options import keeps_of

        return keeps_of(text)


class Falling(_Text):
    """Numbers in a list such as `999,749,499,249`, each below the one before."""

    name = "numbers"

    def _read(self, text: str) -> tuple[float, ...]:
        from search.methods.options import grid_of

        return grid_of(text)


class Size(_Text):
    """Height and width in pixels, such as `512x768`."""

    name = "HEIGHTxWIDTH"

    def _read(self, text: str) -> tuple[int, int]:
        from search.methods.options import size_of

        return size_of(text)


class LoraFile(_Text):
    """A LoRA with its scale, such as `style.safetensors:0.8`."""

    name = "FILE[:SCALE]"

    def _read(self, text: str) -> Lora:
        from search.core.lora import Lora

        return Lora.parse(text)


class Names(_Text):
    """Some of a set of names, in a list such as `a,b`."""

    name = "names"

    def __init__(self, choices: Iterable[str], *, may_be_empty: bool = False) -> None:
        self.choices, self.may_be_empty = tuple(choices), may_be_empty

    def _read(self, text: str) -> tuple[str, ...]:
        from search.methods.options import names_of

        return () if self.may_be_empty and not text else names_of(text, self.choices)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The names, for the help."""
        del param, ctx
        return f"[{','.join(self.choices)}]"


class Assignment(_Text):
    """NAME=VALUE; the value is read as JSON, or else as a text."""

    name = "NAME=VALUE"

    def _read(self, text: str) -> tuple[str, Any]:
        from search.methods.options import assignment_of

        return assignment_of(text)
