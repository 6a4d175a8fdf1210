"""A bundle that is loaded to answer requests: what it can do, and which requests it can answer."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.batches import largest_for
from engines.errors import EngineError
from engines.guidance import guidance_of
from engines.pictures import Generation
from engines.runner import Runner
from engines.serve.errors import RequestError
from engines.serve.replicas import RemoteRunner
from exporter.bundle import Bundle
from exporter.picture import LOOKS
from search.core.errors import SearchError
from search.core.prompt import PromptField, class_number
from search.core.summary import cells, summarise
from search.core.versions import version_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from engines.serve.request import ImageRequest

Runs = Runner | RemoteRunner
Size = tuple[int, int]
"""Width and height, in the order of the API."""


@dataclass(frozen=True)
class Asked:
    """A request that its model can answer.

    Attributes:
        served: the model.
        prompt: text, or class name or number.
        negative: what to guide away from.
        guidance: scale.
        size: width and height.
        seeds: one for each picture.
        previews: how many are wanted before the picture.
    """

    served: Served
    prompt: str
    negative: str
    guidance: float
    size: Size
    seeds: tuple[int, ...]
    previews: int = 0

    @property
    def shared(self) -> tuple[object, ...]:
        """What pictures of one run have in common."""
        return (self.served.name, self.size, self.prompt, self.negative, self.guidance)

    def about(self, seed: int) -> Generation:
        """How the picture of a seed is made, for its file."""
        bundle = self.served.bundle
        return Generation(
            prompt=self.prompt,
            negative=self.negative,
            seed=seed,
            image=0,
            images=1,
            guidance=self.guidance,
            steps=bundle.subnet.binding.inference_steps,
            calls=len(bundle.calls),
            scheduler=bundle.subnet.binding.scheduler,
            subnet=bundle.subnet.method,
            pipeline=Path(bundle.pipeline).name,
            given_latents=False,
            version=version_of("stepcarve") or "unknown",
            lora_scales={each.name: each.scale for each in bundle.live_loras},
        )


class Served:
    """A bundle, loaded at all of its shapes, under the name that requests give.

    Attributes:
        name: of the model.
        bundle: at its first shape.
        runners: for each size, by the number of pictures that a run makes.
        created: when it was loaded, in seconds of Unix time.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        runner_of: Callable[[Bundle], Runs],
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Load a bundle.

        Args:
            name: of the model.
            path: of the bundle.
            runner_of: makes what runs a variant.
            report: called with a progress message.
        """
        self.name, self.bundle, self.created = name, Bundle.open(path), int(time.time())
        _require_servable(self.bundle)
        self.runners: dict[Size, dict[int, Runs]] = {}
        for variant in self.bundle.variants():
            report(f"load {name}, {variant.shape}")
            size = (variant.shape.width, variant.shape.height)
            self.runners.setdefault(size, {})[variant.shape.images] = runner_of(variant)

    def runner_for(self, size: Size, waiting: int) -> Runs:
        """The runner that makes most of the `waiting` pictures at once, without making others."""
        return largest_for(self.runners[size], waiting)

    def understand(self, asked: ImageRequest) -> Asked:
        """What is to be made for a request.

        Raises:
            RequestError: the bundle cannot make it.
        """
        steps = self.bundle.subnet.binding.inference_steps
        if asked.num_inference_steps not in (None, steps):
            msg = (
                f"{asked.num_inference_steps} steps were requested, but model {self.name!r} makes {steps}; "
                "leave num_inference_steps out, or ask another model"
            )
            raise RequestError(400, msg, code="unsupported", param="num_inference_steps")
        if asked.partial_images and not asked.stream:
            msg = "partial_images are sent while a request is streamed; set stream to true"
            raise RequestError(400, msg, code="unsupported", param="partial_images")
        if asked.partial_images and not self.has_previews:
            why = (
                "export the bundle again"
                if self.bundle.preview is None
                else "serve without replicas"
            )
            msg = f"model {self.name!r} has no previews; leave partial_images out, or {why}"
            raise RequestError(400, msg, code="unsupported", param="partial_images")
        if asked.stream and (asked.n or 1) > 1:
            msg = f"{asked.n} pictures were requested, but a streamed request makes one; leave n or stream out"
            raise RequestError(400, msg, code="unsupported", param="n")
        negative = asked.negative_prompt or ""
        first = secrets.randbits(32) if asked.seed is None else asked.seed
        return Asked(
            served=self,
            prompt=self._prompt(asked.prompt),
            negative=negative,
            guidance=self._guidance(asked.guidance_scale, negative),
            size=self._size(asked.size),
            seeds=tuple((first + number) % 2**32 for number in range(asked.n or 1)),
            previews=asked.partial_images or 0,
        )

    def _prompt(self, prompt: str) -> str:
        for each in self.bundle.prompt_inputs:
            if each.fill is PromptField.LABEL:
                try:
                    class_number(prompt, self.bundle.labels, each.classes)
                except SearchError as error:
                    raise RequestError(
                        400, str(error), code="unsupported", param="prompt"
                    ) from error
        return prompt

    def _guidance(self, scale: float | None, negative: str) -> float:
        try:
            return guidance_of(self.bundle, scale, negative)
        except EngineError as error:
            param = (
                "negative_prompt"
                if negative and not self.bundle.takes_negative
                else "guidance_scale"
            )
            reason = str(error).partition(";")[0]  # the advice is for the command line
            told = f"{reason}; leave {param} out, or ask another model"
            raise RequestError(400, told, code="unsupported", param=param) from error

    def _size(self, size: str | None) -> Size:
        if size in (None, "auto"):
            return next(iter(self.runners))
        width, height = map(int, size.split("x"))
        if (width, height) in self.runners:
            return width, height
        msg = f"size is {size}, but model {self.name!r} makes {', '.join(self.sizes)}; ask for one of these"
        raise RequestError(400, msg, code="unsupported", param="size")

    @property
    def has_previews(self) -> bool:
        """Whether its runs can be seen before they are done."""
        first = next(iter(next(iter(self.runners.values())).values()))
        return self.bundle.preview is not None and not isinstance(first, RemoteRunner)

    @property
    def sizes(self) -> list[str]:
        """As requests give them, the default first."""
        return [f"{width}x{height}" for width, height in self.runners]

    @cached_property
    def about(self) -> dict[str, Any]:
        """The model as the API lists it, and what it can do."""
        bundle, subnet = self.bundle, self.bundle.subnet
        order = list(LOOKS)
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "stepcarve",
            "stepcarve": {
                "sizes": self.sizes,
                "batches": {f"{w}x{h}": sorted(self.runners[w, h]) for w, h in self.runners},
                "steps": subnet.binding.inference_steps,
                "calls": len(bundle.calls),
                "keep": summarise(subnet)["keep"],
                "method": subnet.method,
                "guidance_scale": bundle.guidance,
                "guidance_range": subnet.guidance_range,
                "negative_prompt": bundle.takes_negative,
                "classes": sorted(bundle.labels) if bundle.takes_labels else None,
                "prompt": bundle.default_prompt,
                "previews": self.has_previews,
                "blocks": list(subnet.topology.blocks),
                "looks": [
                    {"colour": colour, "meaning": meaning} for _, colour, meaning in LOOKS.values()
                ],
                "grid": [[order.index(cell) for cell in row] for row in cells(subnet)],
            },
        }


def _require_servable(bundle: Bundle) -> None:
    """Refuse a bundle that needs what the images API does not carry."""
    needs = [*sorted(bundle.pictures), *(["latents"] if bundle.sampler.given else [])]
    if bundle.shape.frames is not None:
        needs.append("videos")
    if needs:
        msg = (
            f"the bundle {str(bundle.path)!r} cannot be served: the images API has no field for its "
            f"{' and '.join(needs)}; use stepcarve run"
        )
        raise EngineError(msg)
