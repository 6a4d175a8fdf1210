"""LoRAs and IP-Adapters: files of small changes to a pipeline, each with its scale."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from search.core.errors import SearchError
from search.core.files import sha256

if TYPE_CHECKING:
    from collections.abc import Sequence

SUFFIX = ".safetensors"
Adapter = TypeVar("Adapter", bound="Lora")


@dataclass(frozen=True)
class Lora:
    """A LoRA that is fused into the weights, or stays beside them.

    Attributes:
        file: as it was given.
        scale: of its changes; of one that stays beside the weights, the one to use when none is given.
        sha256: of the file.
        name: by which the scale of one beside the weights is moved; empty for one that is fused.
    """

    what: ClassVar[str] = "LoRA"
    option: ClassVar[str] = "--lora"

    file: Path
    scale: float
    sha256: str
    name: str = ""

    @classmethod
    def open(cls, file: Path, scale: float = 1.0) -> Self:
        """What is in `file`.

        Raises:
            SearchError: there is no such file, or it is of another format.
        """
        if not file.is_file():
            msg = (
                f"there is no {cls.what} file {str(file)!r}; give FILE, or FILE:SCALE as in "
                "style.safetensors:0.8"
            )
            raise SearchError(msg)
        if file.suffix != SUFFIX:
            msg = f"the {cls.what} {str(file)!r} is not a {SUFFIX} file; save or download it as one"
            raise SearchError(msg)
        if not math.isfinite(scale):
            msg = f"the {cls.what} {str(file)!r} has the scale {scale}; give a finite number"
            raise SearchError(msg)
        return cls(file, scale, sha256(file))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `FILE` or `FILE:SCALE`."""
        name, colon, scale = text.rpartition(":")
        if not colon or Path(text).is_file():
            return cls.open(Path(text))
        try:
            number = float(scale)
        except ValueError:
            return cls.open(Path(text))
        return cls.open(Path(name), number)

    def require(self) -> None:
        """Refuse a file that is not there, or not the same any more."""
        if not self.file.is_file():
            msg = f"the {self.what} {str(self.file)!r} is not there; say where it is with {self.option}"
            raise SearchError(msg)
        found = sha256(self.file)
        if found != self.sha256:
            msg = (
                f"the {self.what} {str(self.file)!r} has the SHA-256 {found[:12]}..., but the one with "
                f"{self.sha256[:12]}... is wanted; say where that is with {self.option}"
            )
            raise SearchError(msg)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        named = {"name": self.name} if self.name else {}
        return {"file": str(self.file), "sha256": self.sha256, "scale": self.scale, **named}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read what `to_json` wrote; the file need not be there."""
        name = str(data.get("name", ""))
        return cls(Path(data["file"]), float(data["scale"]), str(data["sha256"]), name)


class IPAdapter(Lora):
    """An IP-Adapter, which stays beside the weights, at a fixed scale."""

    what = "IP-Adapter"
    option = "--ip-adapter"


def live(loras: Sequence[Lora]) -> tuple[Lora, ...]:
    """The same with names: those of their files, in letters, digits and underscores.

    Raises:
        SearchError: two have one name.
    """
    named = tuple(replace(each, name=re.sub(r"\W", "_", each.file.stem)) for each in loras)
    names = [each.name for each in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"two LoRAs of --lora-live are called {twice[0]!r}; rename one of the files"
        raise SearchError(msg)
    return named


def scale_of(text: str) -> tuple[str, float]:
    """Read `NAME=VALUE`.

    Raises:
        SearchError: it is something else.
    """
    name, equals, value = text.partition("=")
    try:
        scale = float(value)
    except ValueError:
        scale = math.nan
    if not (name and equals and math.isfinite(scale)):
        msg = f"{text!r} is not NAME=VALUE; give a LoRA and a finite scale, such as style=0.5"
        raise SearchError(msg)
    return name, scale


def placed(loras: Sequence[Adapter], given: Sequence[Path]) -> tuple[Adapter, ...]:
    """The same `loras`, those whose files are `given` there: a file is known by its SHA-256.

    Raises:
        SearchError: a given file is none of them.
    """
    places = {Lora.open(file).sha256: file for file in given}
    known = {each.sha256 for each in loras}
    for digest, file in places.items():
        if digest not in known:
            names = ", ".join(repr(each.file.name) for each in loras) or "none"
            msg = (
                f"{str(file)!r} is, by its SHA-256, no file that the bundle was made with ({names}); give "
                "those files, or leave it out"
            )
            raise SearchError(msg)
    return tuple(replace(each, file=places.get(each.sha256, each.file)) for each in loras)
