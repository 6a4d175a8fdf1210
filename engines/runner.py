"""Walks a bundle's program: binds buffers once, then calls engines and applies the sampler table."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.built import load_graph
from engines.errors import EngineError, NotFiniteError
from engines.given import require_pictures
from engines.guidance import guidance_of
from engines.noise import noise_of
from engines.preview import expected_rows, pictures_of
from engines.sampler_rows import SamplerRows
from engines.texts import Texts
from search.core.names import GUIDANCE, IMAGE, LATENTS, PREDICTION, SAMPLE
from search.core.pictures import values_of
from search.core.prompt import Drawn, PromptField, PromptInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from PIL.Image import Image

    from engines.base import Engine, Form
    from engines.buffers import Buffer
    from engines.noise import Noise
    from exporter.bundle import Bundle, BundleCall

    OnCall = Callable[[int, NDArray[Any], NDArray[Any] | None], None]


@dataclass(frozen=True)
class Result:
    """What one run made.

    Attributes:
        latents: the final latents, `[B, C, H, W]` float32.
        images: the pictures, `[B, height, width, 3]` uint8; of videos `[B, frames, height, width, 3]`.
        seconds: the seconds for `condition` (with the prologue), `loop` and `decode`.
    """

    latents: NDArray[np.float32]
    images: NDArray[np.uint8]
    seconds: dict[str, float]


@dataclass(frozen=True)
class _Drawn:
    """What a seed gives before the loop.

    Attributes:
        noises: for the conditioner, by its input.
        initial: the latents that it makes; None if they are given.
        source: of what the loop draws.
    """

    noises: dict[str, NDArray[np.float32]]
    initial: NDArray[np.float32] | None
    source: Noise


class Runner:
    """One variant of a bundle, loaded on an engine, to run any number of times.

    All buffers are allocated and bound when it is made: the step graphs write caches and noise
    predictions straight into them, and a run only calls the graphs and computes the sampler's sums.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        bundle.check()
        self.bundle = bundle
        self._sessions = {name: load_graph(bundle, engine, name) for name in bundle.models}
        self._buffers = engine.buffers
        sampler, shape, float32 = bundle.sampler, bundle.latent_shape, np.dtype(np.float32)
        self._stack = self._buffers.table((sampler.final.size, *shape), float32)
        self._known = self._stack[: sampler.known]
        self._predictions = self._stack[sampler.known :]
        self._inputs: dict[str, Buffer] = {
            SAMPLE: self._buffers.zeros(shape, float32),
            GUIDANCE: self._buffers.zeros((), float32),
        }
        conditioner = self._sessions[bundle.conditioner]
        self._forms = dict(conditioner.inputs)
        self._prompt, self._texts = self._make(conditioner.inputs), Texts(bundle)
        self._inputs |= self._make(conditioner.outputs)
        self._slots = self._make_slots()
        self._latents = self._buffers.zeros(shape, float32)
        decoder = self._sessions[bundle.decoder]
        self._image = self._make(decoder.outputs)
        self._condition = conditioner.bind(self._prompt, self._inputs)
        self._encode, self._encoded_from, self._clean = self._bind_encoder()
        self._decode = decoder.bind({LATENTS: self._latents}, self._image)
        self._prologue, self._invariants = self._bind_prologue()
        self._rows = {n: self._buffers.rows(self._invariants[n]) for n in bundle.rows}
        self._constants: list[Buffer] = []
        self._calls = [self._bind(call) for call in bundle.calls]
        self._sampler = SamplerRows(bundle, self._buffers)
        outs = [*[self._inputs[SAMPLE]] * len(self._calls), self._latents]
        *self._combine, self._finish = (
            self._buffers.combination(row, self._stack, out)
            for row, out in zip(self._sampler.weights, outs, strict=True)
        )
        self._loop = self._buffers.record(self._walk)

    @property
    def on_host(self) -> bool:
        """Whether `on_call` does not slow a run down."""
        return self._buffers.on_host

    def run(
        self,
        prompt: str,
        *,
        latents: NDArray[np.float32] | None = None,
        seed: int | Sequence[int] = 0,
        negative: str = "",
        guidance: float | None = None,
        pictures: Mapping[str, Image] | None = None,
        lora_scales: Mapping[str, float] | None = None,
        on_call: OnCall | None = None,
    ) -> Result:
        """Sample pictures for one prompt (or class name or number).

        Args:
            prompt: the text, or the name or number of a class.
            latents: what the bundle starts from, `[B, C, H, W]`: noise of unit variance, the latents of
                another run, or clean latents. None: the noise of `seed`.
            seed: the seed of the noise; the picture is the one that diffusers makes with that seed on the
                CPU. With one seed per picture, no picture depends on the others.
            negative: the negative prompt.
            guidance: the guidance scale; None: the bundle's.
            pictures: `image` and `mask`, if the bundle takes them; they are resized to its size.
            lora_scales: scales of the LoRAs that are kept apart from the weights, by name; the others have
                the bundle's.
            on_call: called after each call with its number, the denoiser's input and the noise prediction
                (None if it made none). The arrays are the runner's own and change with the next call. An
                exception ends the run; the runner can run again.

        Raises:
            EngineError: wrong prompt, shape or scale, or a value that is not finite.
        """
        started = time.perf_counter()
        given = require_pictures(self.bundle, pictures or {}, has_latents=latents is not None)
        drawn = self._drawn(seed, latents)
        self._scale_loras(lora_scales or {})
        self._prepare(prompt, negative, guidance, given, drawn)
        self._begin(latents, given, drawn)
        self._buffers.wait()
        looping = time.perf_counter()
        if on_call is None and not self._buffers.on_host:
            self._loop()
            for number in range(len(self._calls)):
                self._require_finite(number)
        else:
            self._walk(partial(self._look, on_call))
        self._buffers.wait()
        decoding = time.perf_counter()
        if not self._buffers.finite(self._latents):
            raise NotFiniteError(self._not_finite("final latent", len(self._calls) - 1))
        self._decode()
        image = self._buffers.host(self._image[IMAGE])
        if not np.isfinite(image).all():
            raise NotFiniteError(self._not_finite("picture", len(self._calls) - 1))
        done = time.perf_counter()
        return Result(
            latents=self._buffers.host(self._latents).copy(),
            images=np.rint(np.moveaxis(image, -3, -1) * 255).astype(np.uint8),
            seconds={
                "condition": looping - started,
                "loop": decoding - looping,
                "decode": done - decoding,
            },
        )

    def prepare(
        self,
        prompt: str,
        *,
        negative: str = "",
        guidance: float | None = None,
        pictures: Mapping[str, Image] | None = None,
        latents: NDArray[np.float32] | None = None,
        seed: int = 0,
    ) -> None:
        """Set what all calls of a run share: the conditions and the guidance scale."""
        self._scale_loras({})
        self._prepare(prompt, negative, guidance, pictures or {}, self._drawn(seed, latents))

    def _prepare(
        self,
        prompt: str,
        negative: str,
        guidance: float | None,
        pictures: Mapping[str, Image],
        drawn: _Drawn,
    ) -> None:
        write = self._buffers.write
        scale = guidance_of(self.bundle, guidance, negative)
        write(self._inputs[GUIDANCE], scale)
        self._sampler.use(scale)
        texts = {"prompt": prompt, "negative": negative}
        for each in self.bundle.prompt_inputs:
            if each.fill in (PromptField.PICTURE, PromptField.NOISE):
                write(self._prompt[each.name], self._seen(each, pictures, drawn))
            elif each.fill is not PromptField.SCALE:
                write(self._prompt[each.name], self._texts.filling(each, texts[each.source]))
        self._condition()
        self._prologue()
        for name, rows in self._rows.items():
            if rows is not self._invariants[name]:
                write(rows, self._invariants[name])

    def _scale_loras(self, given: Mapping[str, float]) -> None:
        """Set the scales of the LoRAs beside the weights."""
        scales = {each.name: each.scale for each in self.bundle.live_loras}
        for name in sorted(given.keys() - scales.keys()):
            known = ", ".join(scales) or "none"
            msg = (
                f"the bundle has no LoRA {name!r} whose scale can be changed ({known}); name one of these, or "
                "export with --lora-live"
            )
            raise EngineError(msg)
        for each in self.bundle.prompt_inputs:
            if each.fill is PromptField.SCALE:
                scale = {**scales, **given}[each.source]
                self._buffers.write(self._prompt[each.name], np.array([scale], np.float32))

    def _seen(
        self, each: PromptInput, pictures: Mapping[str, Image], drawn: _Drawn
    ) -> NDArray[np.float32]:
        """A picture or a noise, as an input."""
        if each.fill is PromptField.NOISE:
            return drawn.noises[each.name]
        shape = self._forms[each.name][0]
        return values_of(pictures[each.source], each.source, shape, each.shortest)

    def _walk(self, look: Callable[[int], None] = lambda _: None) -> None:
        """All calls, and the sums before and after; `look` is called with the number of each finished one."""
        for number, (combine, call) in enumerate(zip(self._combine, self._calls, strict=True)):
            combine()
            call()
            look(number)
        self._finish()

    def _look(self, on_call: OnCall | None, number: int) -> None:
        """Refuse a call's output that is not finite."""
        self._require_finite(number)
        if on_call is not None:
            made = self._prediction(number)
            shown = None if made is None else self._buffers.host(made)
            on_call(number, self._buffers.host(self._inputs[SAMPLE]), shown)

    def _require_finite(self, number: int) -> None:
        made = self._prediction(number)
        if made is not None and not self._buffers.finite(made):
            raise NotFiniteError(self._not_finite("noise prediction", number))

    def call(
        self, number: int, sample: NDArray[np.float32], caches: dict[str, NDArray[np.float32]]
    ) -> dict[str, NDArray[np.float32]]:
        """One call of the program on given values, after `prepare`.

        Args:
            number: of the call.
            sample: the denoiser's input `[B, C, H, W]`.
            caches: what the call reads, by name.

        Returns:
            Copies of what the call writes: caches by name, and `noise_prediction` if it makes one.
        """
        call = self.bundle.calls[number]
        self._buffers.write(self._inputs[SAMPLE], sample)
        for name, slot in call.reads.items():
            self._buffers.write(self._slots[slot], caches[name])
        self._calls[number]()
        made = {name: self._slots[slot] for name, slot in call.writes.items()}
        if call.prediction is not None:
            made = {PREDICTION: self._predictions[call.prediction], **made}
        return {name: self._buffers.host(value).copy() for name, value in made.items()}

    def preview(self, number: int) -> NDArray[np.uint8] | None:
        """Approximate pictures `[B, height, width, 3]` of what the run will make, after call `number`.

        None if nothing was predicted yet, or if the bundle has no preview.
        """
        if self.bundle.preview is None:
            return None
        made = [call.prediction for call in self.bundle.calls]
        row = expected_rows(self._sampler.table, made)[number]
        row = np.trim_zeros(row, "b").astype(np.float32)
        if not row.size:
            return None
        terms = self._buffers.host(self._stack[: row.size])
        return pictures_of(self.bundle, np.tensordot(row, terms, axes=1))

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pictures `[B, height, width, 3]` in 0..1 from final latents."""
        self._buffers.write(self._latents, latents)
        self._decode()
        picture = self._buffers.host(self._image[IMAGE])
        return np.moveaxis(picture, -3, -1).copy()

    def _make(self, forms: Mapping[str, Form]) -> dict[str, Buffer]:
        return {name: self._buffers.zeros(*form) for name, form in forms.items()}

    def _make_slots(self) -> list[Buffer]:
        """One buffer per slot, of the dtype that the graphs give what it holds."""
        dtypes = dict.fromkeys(range(len(self.bundle.slots)), np.dtype(np.float32))
        for call in self.bundle.calls:
            outputs = self._sessions[self.bundle.graphs[call.graph]].outputs
            dtypes.update({slot: outputs[name][1] for name, slot in call.writes.items()})
        zeros = self._buffers.zeros
        return [zeros(shape, dtypes[n]) for n, shape in enumerate(self.bundle.slots)]

    def _prediction(self, number: int) -> Buffer | None:
        prediction = self.bundle.calls[number].prediction
        return None if prediction is None else self._predictions[prediction]

    def _bind_encoder(self) -> tuple[Callable[[], None], dict[str, Buffer], Buffer]:
        """What makes the latents that a loop begins from, what it takes, and where it puts them."""
        clean = self._buffers.zeros(self.bundle.latent_shape, np.dtype(np.float32))
        if self.bundle.encoder is None:
            return (lambda: None), {}, clean
        session = self._sessions[self.bundle.encoder]
        self._forms |= session.inputs
        inputs = self._make(session.inputs)
        return session.bind(inputs, {LATENTS: clean}), inputs, clean

    def _bind_prologue(self) -> tuple[Callable[[], None], dict[str, Buffer]]:
        """What computes the loop invariants, and the buffers that it fills."""
        file = self.bundle.prologue
        if file is None:
            return (lambda: None), {}
        session, count = self._sessions[file], len(self.bundle.timesteps)
        for name in self.bundle.rows:
            found = session.outputs[name][0] if name in session.outputs else ()
            if found[:1] != (count,):
                msg = (
                    f"{file} gives {name!r} as {list(found)}, but the calls have {count} "
                    "timesteps; export again"
                )
                raise EngineError(msg)
        invariants = self._make(session.outputs)
        return session.bind(self._inputs, invariants), invariants

    def _bind(self, call: BundleCall) -> Callable[[], None]:
        row = self.bundle.timesteps.index(call.timestep)
        inputs = {
            **self._inputs,
            **{name: self._slots[slot] for name, slot in call.reads.items()},
            **self._invariants,
            **{name: rows[row, ...] for name, rows in self._rows.items()},
            **{name: self._constant(values) for name, values in call.coefficients.items()},
        }
        outputs = {name: self._slots[slot] for name, slot in call.writes.items()}
        if call.prediction is not None:
            outputs[PREDICTION] = self._predictions[call.prediction]
        return self._sessions[self.bundle.graphs[call.graph]].bind(inputs, outputs)

    def _constant(self, values: Sequence[float]) -> Buffer:
        """A buffer with these values, kept alive because a binding may hold only its address."""
        buffer = self._buffers.zeros((len(values),), np.dtype(np.float32))
        self._buffers.write(buffer, np.asarray(values, np.float32))
        self._constants.append(buffer)
        return buffer

    def _drawn(self, seed: int | Sequence[int], latents: NDArray[np.float32] | None) -> _Drawn:
        """What a seed gives before the loop, in the order in which diffusers draws it.

        It does not draw the latents that are given.
        """
        source, noises = noise_of(seed), {}
        begun = self.bundle.encoder_inputs if latents is None else ()

        def draw(when: Drawn, source: Noise) -> None:
            for each in (*self.bundle.prompt_inputs, *begun):
                if each.fill is PromptField.NOISE and each.drawn is when:
                    noises[each.name] = source.randn(self._forms[each.name][0])

        draw(Drawn.BEFORE, source)
        is_drawn = latents is None or self.bundle.subnet.binding.grid.adds_noise
        initial = initial_noise(self.bundle, source) if is_drawn else None
        draw(Drawn.AFTER, source)
        draw(Drawn.APART, noise_of(seed))
        return _Drawn(noises, initial, source)

    def _begin(
        self, latents: NDArray[np.float32] | None, pictures: Mapping[str, Image], drawn: _Drawn
    ) -> None:
        """Fill what is known before the loop: latents, and noises in the order of diffusers."""
        bundle, values = self.bundle, iter(self._known)
        write = self._buffers.write
        if latents is not None:
            write(next(values), self._checked(latents))
        elif bundle.encoder is not None:
            for each in bundle.encoder_inputs:
                write(self._encoded_from[each.name], self._seen(each, pictures, drawn))
            self._encode()
            write(next(values), self._clean)
        elif bundle.sampler.given:
            begins = bundle.subnet.binding.grid.begins
            msg = f"the bundle {begins}, so it needs these; give them with --latents"
            raise EngineError(msg)
        if drawn.initial is not None:
            write(next(values), drawn.initial)
        for value in values:
            write(value, drawn.source.randn(bundle.latent_shape))

    def _checked(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        shape = self.bundle.latent_shape
        if latents.shape != shape:
            msg = (
                f"the latents have the shape {list(latents.shape)}, but the bundle takes {list(shape)}; give "
                "latents of that shape"
            )
            raise EngineError(msg)
        if not np.isfinite(latents).all():
            msg = "the given latents are not all finite; give others"
            raise EngineError(msg)
        return latents

    def _not_finite(self, what: str, number: int) -> str:
        call = self.bundle.calls[number]
        return (
            f"the {what} is not finite after call {number} (step {call.step}, timestep "
            f"{call.timestep:g}, {self.bundle.graphs[call.graph]}), so no image is written; "
            "run stepcarve verify on this bundle"
        )


def initial_noise(bundle: Bundle, source: Noise) -> NDArray[np.float32]:
    """The next noise of `source`, as the latents that diffusers makes of it."""
    drawn = source.randn(bundle.noise_shape)
    if bundle.layout is not None:
        drawn = drawn.ravel()[np.load(bundle.file(bundle.layout), allow_pickle=False)]
    return drawn.reshape(bundle.latent_shape)
