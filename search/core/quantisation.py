"""The quantisation plan: which layers of a denoiser, in which scheme, over which input ranges. No framework."""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError
from search.core.files import SIZE_LIMIT, write_atomically
from search.core.precision import denoiser_precisions

if TYPE_CHECKING:
    from pathlib import Path

    from search.core.subnet import SubNet

SCHEMA, SMOOTHED, SPANNED = 1, 2, 3
"""A plan whose layers have exponents has the second, one with several spans of steps the third, so that older
versions refuse them."""
KIND = "stepcarve-quantisation"
SUFFIX = ".quantisation.json"
"""Ending of a plan that lies beside its SubNet."""
LARGEST_EXPONENT = 14
"""Of the powers of two between inputs and weights, either way; float16 holds them."""
_NUMBERS = re.compile(r"\[[\s\d.,e+-]+\]")
"""A list of numbers in JSON, on however many lines."""


@dataclass(frozen=True)
class Scheme:
    """How the numbers of a layer are stored.

    Attributes:
        name: as on the command line and in manifests.
        weights: precision of the weights, with one scale per output channel.
        inputs: precision of what the layer takes, with one scale per tensor; empty: not quantised.
        largest: of the weights' integers; they lie between minus this and this.
        lowest: of the inputs' integers.
        highest: of the inputs' integers.
        block: weights of one output channel that share a scale; 0: all of them.
    """

    name: str
    weights: str
    inputs: str
    largest: float
    lowest: float = 0
    highest: float = 0
    block: int = 0

    @property
    def bits(self) -> int:
        """Of one weight."""
        return int("".join(filter(str.isdigit, self.weights)))

    @property
    def is_symmetric(self) -> bool:
        """Whether zero stands for zero among the inputs, without a zero point of its own."""
        return self.lowest == -self.highest

    def grid_of(self, low: float, high: float) -> Grid:
        """The grid that covers a range of inputs and holds zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        if self.is_symmetric:
            return Grid(max(-low, high, TINY) / self.highest, 0)
        scale = max(high - low, TINY) / (self.highest - self.lowest)
        return Grid(scale, round(self.lowest - low / scale))


TINY = 1e-12
"""The smallest width of a range, so that a layer whose inputs are all zero has a scale."""


@dataclass(frozen=True)
class Grid:
    """The numbers `scale * (integer - zero)`."""

    scale: float
    zero: int


SCHEMES = (
    Scheme("int8", weights="int8", inputs="uint8", largest=127, lowest=0, highest=255),
    Scheme("int8-symmetric", weights="int8", inputs="int8", largest=127, lowest=-127, highest=127),
    Scheme("fp8", weights="float8", inputs="float8", largest=448, lowest=-448, highest=448),
    Scheme("int8-weights", weights="int8", inputs="", largest=127),
    Scheme("int4-weights", weights="int4", inputs="", largest=7, block=32),
)
"""A new one is one record here."""


def weight_schemes() -> tuple[Scheme, ...]:
    """The schemes that quantise weights alone; they need no plan."""
    return tuple(each for each in SCHEMES if not each.inputs)


def part_precisions() -> list[str]:
    """The precisions that text encoders and autoencoders may have."""
    return [
        *(each.name for each in denoiser_precisions()),
        *(each.name for each in weight_schemes()),
    ]


def weight_scheme(name: str) -> Scheme | None:
    """The scheme for weights alone called `name`, or None."""
    return next((each for each in weight_schemes() if each.name == name), None)


def scheme_named(name: str) -> Scheme:
    """The scheme called `name`; a `KeyError` if there is none."""
    for each in SCHEMES:
        if each.name == name:
            return each
    raise KeyError(name)


@dataclass(frozen=True)
class Layer:
    """One matrix product or convolution with constant weights.

    Attributes:
        low: smallest input in the calibration runs; 0 where inputs are not quantised.
        high: largest input.
        share: its fraction of the multiply-accumulates of all layers that could be quantised.
        error: relative error of the final latents if this layer alone is quantised; None: not measured.
        exponents: one per input channel, of a linear layer: before rounding, its inputs are divided by two to
            this power, and the weights that multiply them are multiplied by it; empty: nothing is moved. The
            range is that of the divided inputs.
        spans: smallest and largest input in each span of steps, if the plan has several; `low` and `high` are
            over all of them.
    """

    low: float = 0.0
    high: float = 0.0
    share: float = 0.0
    error: float | None = None
    exponents: tuple[int, ...] = ()
    spans: tuple[tuple[float, float], ...] = ()

    def at(self, span: int) -> Layer:
        """With the range of one span of steps alone."""
        if not self.spans:
            return self
        low, high = self.spans[span]
        return replace(self, low=low, high=high, spans=())

    @property
    def powers(self) -> tuple[float, ...]:
        """Two to the power of the exponents, exactly."""
        return tuple(2.0**each for each in self.exponents)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, without exponents or spans if there are none."""
        return {
            key: value
            for key, value in vars(self).items()
            if value or key not in ("exponents", "spans")
        }


@dataclass(frozen=True)
class Quantisation:
    """A plan for one SubNet.

    Attributes:
        scheme: the number format of the layers.
        layers: those to quantise, by the name of their weights in the denoiser.
        kept: those that stay in floating point, by name as well.
        fingerprint: of the denoiser's configuration and weights.
        subnet: SHA-256 of the SubNet's content; empty for any SubNet of that denoiser.
        origin: how the plan was made, as JSON values.
        starts: the first step of each span of steps but the first span. Each has ranges of its own, and so
            step graphs of its own.
    """

    scheme: Scheme
    layers: dict[str, Layer]
    kept: dict[str, Layer] = field(default_factory=dict)
    fingerprint: str = ""
    subnet: str = ""
    origin: dict[str, Any] = field(default_factory=dict)
    starts: tuple[int, ...] = ()

    @staticmethod
    def of_weights(scheme: Scheme) -> Quantisation:
        """A plan for the weights of all layers, which needs no calibration."""
        return Quantisation(scheme, {})

    @property
    def takes_all(self) -> bool:
        """Whether it applies to every layer; then it lists none."""
        return not self.layers and not self.kept

    @property
    def is_smoothed(self) -> bool:
        """Whether a layer has exponents."""
        return any(each.exponents for each in (*self.layers.values(), *self.kept.values()))

    @property
    def spans(self) -> int:
        """How many spans of steps there are."""
        return len(self.starts) + 1

    def span_of(self, step: int) -> int:
        """The span that a step of the SubNet lies in."""
        return bisect_right(self.starts, step)

    def at(self, span: int) -> Quantisation:
        """The plan for the steps of one span."""
        layers, kept = (
            {name: layer.at(span) for name, layer in each.items()}
            for each in (self.layers, self.kept)
        )
        return replace(self, layers=layers, kept=kept, starts=())

    def require_for(self, subnet: SubNet) -> None:
        """Refuse a SubNet or a denoiser that the plan was not made for.

        Raises:
            SearchError: it was not, or it lacks the ranges that its scheme needs.
        """
        if self.takes_all and self.scheme.inputs:
            msg = (
                f"{self.scheme.name} needs the ranges of the layers' inputs, and the plan has none; make one "
                "with stepcarve quantise"
            )
            raise SearchError(msg)
        if self.fingerprint and self.fingerprint != subnet.binding.fingerprint:
            msg = (
                "the quantisation plan is for a denoiser with other weights; make one for this SubNet with "
                "stepcarve quantise"
            )
            raise SearchError(msg)
        if self.subnet and self.subnet != digest(subnet):
            msg = (
                "the quantisation plan was calibrated on the calls of another SubNet; make one for this "
                "SubNet with stepcarve quantise"
            )
            raise SearchError(msg)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; see docs/formats.md."""
        return {
            "schema": SPANNED if self.starts else SMOOTHED if self.is_smoothed else SCHEMA,
            "kind": KIND,
            "scheme": self.scheme.name,
            "fingerprint": self.fingerprint,
            "subnet": self.subnet,
            "origin": self.origin,
            **({"starts": list(self.starts)} if self.starts else {}),
            "layers": {name: each.to_json() for name, each in self.layers.items()},
            "kept": {name: each.to_json() for name, each in self.kept.items()},
        }

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically; lists of numbers on one line."""
        text = json.dumps(self.to_json(), indent=1)
        write_atomically(path, _NUMBERS.sub(lambda each: "".join(each[0].split()), text) + "\n")

    @staticmethod
    def load(path: Path) -> Quantisation:
        """Read a file that `save` wrote.

        Raises:
            SearchError: the file is missing, no plan, or of another schema.
        """
        try:
            if path.stat().st_size > 16 * SIZE_LIMIT:
                msg = "it is too large"
                raise ValueError(msg)
            return Quantisation.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            msg = f"there is no quantisation plan {str(path)!r}; make one with stepcarve quantise"
            raise SearchError(msg) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            msg = (
                f"{str(path)!r} is no quantisation plan that this version can read ({error}); make it again with "
                "stepcarve quantise"
            )
            raise SearchError(msg) from None

    @staticmethod
    def from_json(data: dict[str, Any]) -> Quantisation:
        """The inverse of `to_json`; every problem is a `ValueError`, `KeyError` or `TypeError`."""
        if data["kind"] != KIND or data["schema"] not in (SCHEMA, SMOOTHED, SPANNED):
            msg = f"kind {data['kind']!r}, schema {data['schema']!r}"
            raise ValueError(msg)
        scheme, starts = scheme_named(data["scheme"]), _starts(data.get("starts", ()))
        layers, kept = (
            {str(name): _layer(each, scheme, len(starts) + 1) for name, each in data[key].items()}
            for key in ("layers", "kept")
        )
        return Quantisation(
            scheme,
            layers,
            kept,
            str(data["fingerprint"]),
            str(data["subnet"]),
            dict(data["origin"]),
            starts,
        )


def digest(subnet: SubNet) -> str:
    """SHA-256 of a SubNet's content."""
    return hashlib.sha256(json.dumps(subnet.to_json(), sort_keys=True).encode()).hexdigest()


def _starts(data: Any) -> tuple[int, ...]:
    starts = tuple(data)
    if any(type(each) is not int for each in starts) or list(starts) != sorted({0, *starts})[1:]:
        msg = f"spans of steps that start at {list(starts)}"
        raise ValueError(msg)
    return starts


def _range(low: Any, high: Any) -> tuple[float, float]:
    low, high = float(low), float(high)
    if not (float("-inf") < low <= high < float("inf")):
        msg = f"the range {low} to {high}"
        raise ValueError(msg)
    return low, high


def _layer(data: dict[str, Any], scheme: Scheme, count: int) -> Layer:
    low, high = _range(data["low"], data["high"])
    spans = tuple(_range(*each) for each in data.get("spans", ()))
    wanted = count if count > 1 else 0
    if len(spans) != wanted or any(not low <= a <= b <= high for a, b in spans):
        msg = f"the ranges {[*spans]} in {count} spans of steps"
        raise ValueError(msg)
    error, exponents = data["error"], tuple(data.get("exponents", ()))
    for each in exponents:
        if type(each) is not int or abs(each) > LARGEST_EXPONENT:
            msg = f"the exponent {each!r}, not a whole number up to {LARGEST_EXPONENT} either way"
            raise ValueError(msg)
    if exponents and not scheme.inputs:
        msg = f"exponents in {scheme.name}, which leaves inputs in floating point"
        raise ValueError(msg)
    own = None if error is None else float(error)
    return Layer(low, high, float(data["share"]), own, exponents, spans)
