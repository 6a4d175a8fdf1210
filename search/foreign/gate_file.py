"""Gate files as the author of DiP-GO publishes them, read without running anything that is in them.

Such a file is a pickle: a list with one dictionary per step, from `(kind, "block", index, 0)`, or
`("mid", "mid_block", 0, 0)`, to a float32 tensor `[reuse, keep]`, one of them 1 and the other 0.
Unpickling can call any function that a file names, so here it knows four names and gives each a
meaning of our own; PyTorch is not involved.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from search.core.errors import SearchError
from search.core.files import require_small

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

SIZE_LIMIT = 64 * 2**20
"""Bytes; a thousand steps of fifty blocks need half of that."""
KINDS = ("down", "mid", "up")

_REFUSED_OPCODES = frozenset(
    {"BUILD", "EXT1", "EXT2", "EXT4", "INST", "NEWOBJ", "NEWOBJ_EX", "NEXT_BUFFER", "OBJ"}
)
"""They make objects, or change those that are there; lists, dictionaries and tensors need none."""
_HEADERS = 3
"""A serialised storage begins with the pickles of a magic number, a version and byte sizes."""


class Gate(NamedTuple):
    """Which gate of a step.

    Attributes:
        kind: one of `KINDS`.
        number: of the block among its kind, from 0; up blocks are counted from the last.
    """

    kind: str
    number: int

    def __str__(self) -> str:
        """Words for messages."""
        return f"{self.kind} {self.number}"


def read_gates(path: Path) -> tuple[Mapping[Gate, bool], ...]:
    """Per step, which gates keep their block (the others reuse it).

    Raises:
        SearchError: the file is too large, damaged, or holds anything but gates.
    """
    require_small(
        path, SIZE_LIMIT, "a gate file has", "give the file with the gates, not with weights"
    )
    data = path.read_bytes()
    try:
        return _steps(_unpickle_file(data))
    except SearchError as error:
        msg = f"{str(path)!r} {error}"
        raise SearchError(msg) from error
    except Exception as error:  # what a damaged pickle raises has no common class
        msg = (
            f"{str(path)!r} is not a complete plain pickle ({type(error).__name__}); give a gate file as "
            "DiP-GO publishes them (torch.save writes another format), or download it again"
        )
        raise SearchError(msg) from error


@dataclass(frozen=True)
class _Tensor:
    """A tensor as a file describes it, unchecked."""

    numbers: Any
    offset: Any
    size: Any
    stride: Any


class _Unpickler(pickle.Unpickler):
    """Accepts only the names in `known`."""

    def __init__(self, data: bytes, known: Mapping[str, Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._known = known

    def find_class(self, module: str, name: str, /) -> Any:
        """Return our substitute for a name, or refuse it."""
        found = f"{module}.{name}"
        if found not in self._known:
            _refuse_name(found)
        return self._known[found]


class _StorageUnpickler(_Unpickler):
    """The pickle in a serialised storage: a reference to the numbers that follow it."""

    def persistent_load(self, pid: Any, /) -> Any:
        """Return the class of the storage, unchecked; key, place and length do not matter here."""
        return pid[1]


def _unpickle_file(data: bytes) -> Any:
    known: dict[str, Any] = {
        "collections.OrderedDict": dict,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch.storage._load_from_bytes": _numbers,
    }
    stream = io.BytesIO(data)
    content = _unpickle(stream, lambda pickled: _Unpickler(pickled, known))
    if stream.tell() != len(data):
        msg = (
            f"continues for {len(data) - stream.tell()} bytes after its end; give a gate file as "
            "DiP-GO publishes them"
        )
        raise SearchError(msg)
    return content


def _unpickle(stream: io.BytesIO, reader: Callable[[bytes], _Unpickler]) -> Any:
    """The next pickle of `stream`, its instructions checked before any of them is followed."""
    start, limit = stream.tell(), len(stream.getbuffer())
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in _REFUSED_OPCODES:
            msg = (
                f"makes objects (pickle instruction {opcode.name}), which no gate file needs, so it "
                "is not read; give a gate file as DiP-GO publishes them"
            )
            raise SearchError(msg)
        # The unpickler reserves memory for as many entries as the number says.
        if opcode.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > limit:
            msg = f"numbers an entry {argument} in {limit} bytes, so it is not read; download it again"
            raise SearchError(msg)
    return reader(stream.getvalue()[start : stream.tell()]).load()


def _numbers(data: bytes) -> tuple[float, ...]:
    """In place of `torch.storage._load_from_bytes`: the numbers of a float32 storage."""
    stream = io.BytesIO(data)
    for _ in range(_HEADERS):
        _unpickle(stream, lambda pickled: _Unpickler(pickled, {}))
    known = {"torch.FloatStorage": float}
    if _unpickle(stream, lambda pickled: _StorageUnpickler(pickled, known)) is not float:
        msg = "has a tensor that is not of float32; give a gate file as DiP-GO publishes them"
        raise SearchError(msg)
    _unpickle(stream, lambda pickled: _Unpickler(pickled, {}))  # the storages that follow: one
    (count,) = struct.unpack("<q", stream.read(8))
    return struct.unpack(f"<{count}f", stream.read())


def _tensor(numbers: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    """In place of `torch._utils._rebuild_tensor_v2`."""
    return _Tensor(numbers, offset, size, stride)


def _refuse_name(name: str) -> NoReturn:
    msg = (
        f"names {name[:80]!r}, which no gate file needs, so it is not read; give a gate file as "
        "DiP-GO publishes them"
    )
    raise SearchError(msg)


def _steps(content: Any) -> tuple[Mapping[Gate, bool], ...]:
    if not isinstance(content, list):
        msg = f"holds a {type(content).__name__}, not a list; expected one dictionary per step"
        raise SearchError(msg)
    if not content:
        msg = "holds an empty list; expected one dictionary per step"
        raise SearchError(msg)
    return tuple(_step(step, gates) for step, gates in enumerate(content))


def _step(step: int, gates: Any) -> Mapping[Gate, bool]:
    if not isinstance(gates, dict):
        msg = (
            f"has a {type(gates).__name__} as step {step}; expected a dictionary from "
            "(kind, 'block', index, 0) to gates"
        )
        raise SearchError(msg)
    found = dict[Gate, bool]()
    for key, value in gates.items():
        gate = _gate(step, key)
        if gate in found:
            msg = f"names the gate {gate} twice at step {step}; expected one key per block"
            raise SearchError(msg)
        found[gate] = _keeps(step, gate, value)
    return found


def _gate(step: int, key: Any) -> Gate:
    match key:
        case (str(kind), "block", int(number), 0) if kind in KINDS and number >= 0:
            return Gate(kind, number)
        case ("mid", "mid_block", 0, 0):
            return Gate("mid", 0)
    msg = (
        f"has the key {_shown(key)} at step {step}; expected (kind, 'block', index, 0) with a kind "
        f"of {', '.join(KINDS)}, or ('mid', 'mid_block', 0, 0)"
    )
    raise SearchError(msg)


def _shown(key: Any) -> str:
    """A key for a message; what is not a short tuple of plain values only by its type."""
    plain = isinstance(key, tuple) and all(isinstance(part, str | int | float) for part in key)
    return repr(key)[:80] if plain else f"of type {type(key).__name__}"


def _keeps(step: int, gate: Gate, value: Any) -> bool:
    """Whether a tensor `[reuse, keep]` keeps its block."""
    what = f"the gate {gate} at step {step}"
    if not isinstance(value, _Tensor):
        msg = f"has a {type(value).__name__} for {what}; expected a tensor [reuse, keep]"
        raise SearchError(msg)
    if value.size != (2,):
        msg = (
            f"has a tensor of shape {str(value.size)[:40]} for {what}; expected (2,): [reuse, keep]"
        )
        raise SearchError(msg)
    pair: list[float] = [value.numbers[value.offset + i * value.stride[0]] for i in range(2)]
    if sorted(pair) != [0.0, 1.0]:
        msg = f"has {pair} for {what}; expected [0.0, 1.0] to keep the block or [1.0, 0.0] to reuse it"
        raise SearchError(msg)
    return pair[1] == 1.0
