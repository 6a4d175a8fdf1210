"""SubNet: which block does what at which step, and for which model and sampler. No framework."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.core.actions import RECORDS, Action, Source
from search.core.errors import SearchError
from search.core.files import write_atomically
from search.core.granularity import Granularity as Granularity  # noqa: PLC0414  many take it from here
from search.core.origin import Origin
from search.core.sampler import FittedSampler
from search.core.timestep_grid import TimestepGrid
from search.core.topology import Topology

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA = 5
WITH_GROUPS = 6
"""The schema of SubNets whose steps do not all do the same; others are written as before."""
WITH_SCALES = 7
"""The schema of SubNets whose fitted rows depend on the guidance scale; likewise."""
WITH_SPLIT_STREAMS = 8
"""The schema of SubNets of a pipeline whose call for both halves of guidance is made as two; likewise."""
WITH_PREDICTION_BASES = 9
"""The schema of SubNets in whose topology a call has the prediction of another one as its base; likewise."""
READABLE = (1, 2, 3, 4, 5, 6, 7, 8, 9)
"""Schema 1 has no `deltas` in its topology, so nothing in it allows DELTA; before schema 3 noise and
latents had one shape, before schema 4 every sampler went all the way on the scheduler's own grid;
before schema 5 no cell had coefficients, and a topology numbered its targets."""

Cell = tuple[int, int, tuple[float, ...]]
"""Step, block, and the coefficients that its action leaves to the cell."""


WORDS = {"fingerprint": "weights and configuration with the fingerprint"}
"""Descriptions of binding fields whose name does not suffice."""


@dataclass(frozen=True)
class Binding:
    """The denoiser and sampler that a SubNet was made for; any other is refused.

    Attributes:
        denoiser: class name of the denoiser.
        fingerprint: of the denoiser's configuration and weights.
        scheduler: class name of the scheduler.
        scheduler_config: its configuration.
        grid: timesteps or their number, as given to the scheduler.
        timesteps: one per call that is then made, noisiest first.
        latent_shape: of one image, as the denoiser takes it; `[C, H, W]` unless it is packed.
        noise_shape: of the noise that one image starts from, `[C, H, W]`.
        guided: whether classifier-free guidance doubles the batch.
        scheduler_options: settings among the configuration that were changed for this SubNet.
        picture: height and width in pixels, and the frames of a video; empty in older files.
        call: further arguments of the pipeline's call, such as `max_sequence_length`.
        split_streams: whether the call for both halves of guidance is made as two.
    """

    denoiser: str
    fingerprint: str
    scheduler: str
    scheduler_config: dict[str, Any] = field(hash=False)
    grid: TimestepGrid
    timesteps: tuple[float, ...]
    latent_shape: tuple[int, ...]
    noise_shape: tuple[int, ...]
    guided: bool
    scheduler_options: dict[str, Any] = field(default_factory=dict, hash=False)
    picture: tuple[int, ...] = ()
    call: dict[str, Any] = field(default_factory=dict, hash=False)
    split_streams: bool = False

    @property
    def inference_steps(self) -> int:
        """What the scheduler's `set_timesteps` is given."""
        return self.grid.inference_steps

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        found = {**vars(self), "grid": vars(self.grid)}
        for name in ("scheduler_options", "call", "picture", "split_streams"):
            if not found[name]:
                del found[name]
        return found

    @staticmethod
    def from_json(data: dict[str, Any]) -> Binding:
        """Read what `to_json` wrote; older files have the steps alone, and noise of the latents' shape."""
        rest = dict(data)
        steps = rest.pop("inference_steps", 0)
        # Before schema 5 the grid was called a course.
        given = rest.pop("course", rest.get("grid"))
        grid = TimestepGrid(int(steps)) if given is None else TimestepGrid.from_json(given)
        shapes = {
            "latent_shape": tuple(rest["latent_shape"]),
            "noise_shape": tuple(rest.get("noise_shape", rest["latent_shape"])),
            "picture": tuple(rest.get("picture", ())),
        }
        return Binding(**{**rest, "grid": grid, "timesteps": tuple(rest["timesteps"]), **shapes})

    def require(self, other: Binding) -> None:
        """Refuse the present binding `other` if it differs from this one, which was searched for."""
        found = other._parts()
        for name, mine in self._parts().items():
            if name == "picture" and not mine:
                continue
            theirs = found[name]
            if mine != theirs:
                what = WORDS.get(name, name.replace("_", " "))
                mine, theirs = _difference(mine, theirs)
                msg = (
                    f"the SubNet was made for {what} {mine}, but here it is {theirs}; "
                    "search again on this pipeline, or use the one it was made for"
                )
                raise SearchError(msg)

    def _parts(self) -> dict[str, Any]:
        """The fields to compare, the grid in its parts."""
        parts: dict[str, Any] = {}
        for name, value in vars(self).items():
            parts |= vars(self.grid) if name == "grid" else {name: value}
        return parts


@dataclass(frozen=True)
class SubNet:
    """A table steps x blocks of actions, bound to one denoiser and one sampler.

    Attributes:
        binding: the denoiser, scheduler, timesteps and shape that it belongs to.
        granularity: which submodules are blocks.
        topology: how the blocks depend on each other and what they cost.
        actions: `actions[step][block]`; step 0 is the noisiest.
        guidance: the guidance scale that it was made with, and the one to use when none is given.
        full_calls: the number of calls that the full sampler, which it replaces, makes.
        method: what made it, for people.
        fitted: the sampler it brings along; None is the scheduler it is bound to.
        origin: the search that made it; None in files that do not say so.
        coefficients: of the cells whose action leaves some to them, in order.
    """

    binding: Binding
    granularity: Granularity
    topology: Topology
    actions: tuple[tuple[Action, ...], ...]
    guidance: float
    full_calls: int
    method: str
    fitted: FittedSampler | None = None
    origin: Origin | None = None
    coefficients: tuple[Cell, ...] = ()

    def __post_init__(self) -> None:
        """Check the table; every problem is a `SearchError`."""
        steps, blocks = len(self.timesteps), self.topology.blocks
        if len(self.actions) != steps:
            msg = (
                f"the table has {len(self.actions)} steps, but the sampler has {steps} timesteps; "
                "give one row of actions per timestep"
            )
            raise SearchError(msg)
        wrong = [i for i, row in enumerate(self.actions) if len(row) != len(blocks)]
        if wrong:
            msg = (
                f"steps {wrong} have {sorted({len(self.actions[i]) for i in wrong})} actions, but "
                f"there are {len(blocks)} blocks; give one action per block"
            )
            raise SearchError(msg)
        if self.full_calls < 1:
            msg = f"the full sampler makes {self.full_calls} calls; give 1 or more"
            raise SearchError(msg)
        self._check_scales()
        self._check_groups()
        self._check_first()
        self._check_filled()
        self._check_based()
        self._check_coefficients()

    def _check_scales(self) -> None:
        by_scale = None if self.fitted is None else self.fitted.by_scale
        if by_scale is not None and by_scale.scales.guidance != self.guidance:
            msg = (
                f"the SubNet has guidance {self.guidance:g}, but its fitted rows are written around "
                f"{by_scale.scales.guidance:g}; write them around the same scale"
            )
            raise SearchError(msg)

    def _check_groups(self) -> None:
        groups, blocks = self.topology.groups, self.topology.blocks
        if groups is None:
            return
        if self.fitted is not None or len(groups.of_steps) != self.steps:
            msg = (
                f"the pipeline's steps fall into {self.topology.group_count} groups that compute differently, "
                f"{len(groups.of_steps)} steps in all, but the sampler has {self.steps}"
                f"{' fitted' if self.fitted else ''} steps; use the pipeline's own scheduler, with one row "
                "of actions per timestep"
            )
            raise SearchError(msg)
        for step, row in enumerate(self.actions):
            given = [
                name
                for block, name in enumerate(blocks)
                if row[block] is not Action.RUN and not self.topology.has(step, block)
            ]
            if given:
                msg = (
                    f"step {step} has actions for {given[:8]}, but it makes the calls "
                    f"{', '.join(self.topology.calls_of(step))} and has no such blocks; set them to RUN, "
                    "which has no effect there"
                )
                raise SearchError(msg)

    def _check_first(self) -> None:
        first = self.actions[0] if self.actions else ()
        for action, record in RECORDS.items():
            if not record.runs and Source.EMITTED not in record.row:
                continue
            early = sorted(
                name for name, a in zip(self.topology.blocks, first, strict=False) if a is action
            )
            if early:
                msg = (
                    f"step 0 has {action} for {early}, but no earlier step has filled their cache; "
                    "keep every block at step 0"
                )
                raise SearchError(msg)

    def _check_based(self) -> None:
        allowed, names = set(self.topology.based), self.topology.blocks
        for step, row in enumerate(self.actions):
            for action in sorted(set(row)):
                if Source.BASE not in RECORDS[action].row:
                    continue
                blocks = [b for b, a in enumerate(row) if a is action and b not in allowed]
                if blocks:
                    msg = (
                        f"step {step} has {action} for {sorted(names[block] for block in blocks)}, but "
                        "that passes on the input of a block, and the outputs of these have another shape, "
                        "or an older stepcarve took the input of a whole call; use RUN or REUSE there, a finer "
                        "granularity, or search again"
                    )
                    raise SearchError(msg)

    def _check_filled(self) -> None:
        for block, name in enumerate(self.topology.blocks):
            runs, emits = 0, False
            for step, row in enumerate(self.actions):
                if not self.topology.has(step, block):
                    continue
                record = RECORDS[row[block]]
                lacks = Source.EMITTED in record.row and not emits
                if lacks or runs < record.runs:
                    times, where = (" twice", "two steps") if record.runs > 1 else ("", "a step")
                    msg = (
                        f"step {step} has {row[block]} for {name!r}, but no earlier step runs it{times}; "
                        f"set {name!r} to RUN at {where} before {step}"
                    )
                    raise SearchError(msg)
                runs += Source.FRESH in record.row
                emits = True

    def _check_coefficients(self) -> None:
        wanted = {
            (step, block): len(RECORDS[action].free)
            for step, row in enumerate(self.actions)
            for block, action in enumerate(row)
            if RECORDS[action].free
        }
        cells = Counter((step, block) for step, block, _ in self.coefficients)
        steps, blocks = range(self.steps), range(len(self.topology.blocks))
        wrong = sorted(
            (step, block)
            for (step, block), count in cells.items()
            if count > 1 or step not in steps or block not in blocks
        )
        if wrong:
            msg = (
                f"the coefficients of (step, block) {wrong} appear twice, or lie outside the table; "
                "give them once for each cell whose action needs them"
            )
            raise SearchError(msg)
        found = self._coefficients
        for step, block in sorted(wanted.keys() | found.keys()):
            weights, count = found.get((step, block), ()), wanted.get((step, block), 0)
            if len(weights) != count or not all(map(math.isfinite, weights)):
                action, name = self.actions[step][block], self.topology.blocks[block]
                msg = (
                    f"step {step} has {action} for {name!r} with the coefficients {list(weights)}; "
                    f"give {count} finite numbers"
                )
                raise SearchError(msg)

    def weights(self, step: int, block: int) -> dict[Source, float]:
        """What a block emits at a step: the coefficient of each source."""
        record = RECORDS[self.actions[step][block]]
        given = iter(self._coefficients.get((step, block), ()))
        return {s: next(given) if w is None else w for s, w in record.row.items()}

    @cached_property
    def _coefficients(self) -> dict[tuple[int, int], tuple[float, ...]]:
        return {(step, block): weights for step, block, weights in self.coefficients}

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The timesteps that the denoiser receives, one per step."""
        return self.binding.timesteps if self.fitted is None else self.fitted.timesteps

    @property
    def guidance_range(self) -> tuple[float, float] | None:
        """The least and the largest guidance scale that it is for; None: fitted to none, so for any."""
        if self.fitted is None:
            return None
        by = self.fitted.by_scale
        return (self.guidance,) * 2 if by is None else (by.scales.low, by.scales.high)

    def at(self, guidance: float) -> SubNet:
        """The same for one guidance scale: rows that depend on it are those for that scale.

        Raises:
            SearchError: it is not in the range of the rows.
        """
        if self.fitted is None or self.fitted.by_scale is None:
            return self
        return replace(self, fitted=self.fitted.at(guidance), guidance=guidance)

    @property
    def steps(self) -> int:
        """How many timesteps the sampler has."""
        return len(self.actions)

    @property
    def _schema(self) -> int:
        if any(base.prediction is not None for base in self.topology.bases.values()):
            return WITH_PREDICTION_BASES
        if self.binding.split_streams:
            return WITH_SPLIT_STREAMS
        if self.topology.groups is not None:
            return WITH_GROUPS
        return SCHEMA if self.fitted is None or self.fitted.by_scale is None else WITH_SCALES

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; see docs/formats.md."""
        return {
            "schema": self._schema,
            "kind": "stepcarve-subnet",
            "method": self.method,
            "origin": None if self.origin is None else self.origin.to_json(),
            "binding": self.binding.to_json(),
            "granularity": self.granularity,
            "guidance": self.guidance,
            "full_calls": self.full_calls,
            "fitted": None if self.fitted is None else self.fitted.to_json(),
            "actions": [list(row) for row in self.actions],
            "coefficients": [[step, block, list(w)] for step, block, w in self.coefficients],
            "topology": self.topology.to_json(),
        }

    def save(self, path: Path | str) -> None:
        """Write the SubNet to a JSON file, atomically."""
        write_atomically(Path(path), json.dumps(self.to_json(), indent=1) + "\n")

    @staticmethod
    def load(path: Path) -> SubNet:
        """Read a SubNet file, as `save` writes it.

        Raises:
            SearchError: the file is missing, is not a SubNet, has a newer schema, or is inconsistent.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            msg = f"cannot read the SubNet {str(path)!r}: {error.strerror}; give a file written by stepcarve search"
            raise SearchError(msg) from error
        except (ValueError, RecursionError) as error:
            msg = f"{str(path)!r} is not JSON ({error}); give a file written by stepcarve search"
            raise SearchError(msg) from error
        return SubNet.from_json(data, str(path))

    @staticmethod
    def from_json(data: Any, source: str) -> SubNet:
        """Read what `to_json` wrote; `source` names it in errors."""
        if not isinstance(data, dict) or data.get("kind") != "stepcarve-subnet":
            msg = f"{source!r} is not a SubNet; give a file written by stepcarve search"
            raise SearchError(msg)
        if data.get("schema") not in READABLE:
            msg = (
                f"{source!r} has schema {data.get('schema')!r}, but this stepcarve reads "
                f"{READABLE[0]} to {READABLE[-1]}; "
                "use the stepcarve that wrote it, or search again"
            )
            raise SearchError(msg)
        try:
            return SubNet(
                binding=Binding.from_json(data["binding"]),
                granularity=Granularity(data["granularity"]),
                topology=Topology.from_json(data["topology"]),
                actions=tuple(_actions(row, step) for step, row in enumerate(data["actions"])),
                guidance=float(data["guidance"]),
                full_calls=int(data["full_calls"]),
                method=str(data["method"]),
                fitted=None if not data.get("fitted") else FittedSampler.from_json(data["fitted"]),
                origin=None if not data.get("origin") else Origin.from_json(data["origin"]),
                coefficients=tuple(
                    (int(step), int(block), tuple(map(float, weights)))
                    for step, block, weights in data.get("coefficients", ())
                ),
            )
        except SearchError as error:
            msg = f"{source!r}: {error}"
            raise SearchError(msg) from error
        except (KeyError, TypeError, ValueError, IndexError) as error:
            msg = f"{source!r} is wrong or incomplete at {error}; give a file written by stepcarve search"
            raise SearchError(msg) from error


def _actions(row: Iterable[str], step: int) -> tuple[Action, ...]:
    names = list(row)
    unknown = sorted(set(names) - set(Action))
    if unknown:
        msg = f"step {step} has unknown actions {unknown}; use {', '.join(Action)}"
        raise SearchError(msg)
    return tuple(Action(name) for name in names)


def _difference(mine: Any, theirs: Any) -> tuple[str, str]:
    """Both values as text, shortened to where they differ."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
        return repr({k: mine.get(k) for k in keys}), repr({k: theirs.get(k) for k in keys})
    if isinstance(mine, tuple) and isinstance(theirs, tuple) and len(mine) > 8:
        if len(mine) != len(theirs):
            return f"of length {len(mine)}", f"of length {len(theirs)}"
        at = next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
        return f"{mine[at]} at step {at}", f"{theirs[at]}"
    return repr(mine), repr(theirs)
