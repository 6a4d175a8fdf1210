"""What pipelines from text to image have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from search.core.subnet import Granularity

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search.model.conditioner import TextConditioner
    from search.model.family import Request
    from search.model.pipeline import Pipeline


class TextToImage:
    """A family in which a transformer is guided by texts; the rest is read from the pipeline.

    Attributes:
        stacks: the denoiser's lists of blocks.
        layers: classes of the modules inside that are blocks too at layer granularity.
        settings: further arguments of the pipeline's call.
    """

    component = "transformer"
    sample = "hidden_states"
    timestep = "timestep"
    default_prompt = ""
    scales_latents = False
    steps_latents = True
    stacks: tuple[str, ...] = ("transformer_blocks",)
    layers: frozenset[str] = frozenset({"Attention", "FeedForward"})
    settings: ClassVar[dict[str, Any]] = {}

    def blocks(self, denoiser: Any, granularity: Granularity) -> list[str]:
        """Stage and branch: each transformer block; layer: with what is in `layers` inside."""
        names = []
        for stack in self.stacks:
            for number, block in enumerate(denoiser.get_submodule(stack)):
                name = f"{stack}.{number}"
                names.append(name)
                if granularity is Granularity.LAYER:
                    names += [
                        f"{name}.{inner}"
                        for inner, module in block.named_modules()
                        if type(module).__name__ in self.layers
                    ]
        return names

    @property
    def branches(self) -> frozenset[str]:
        """Classes of the residual branches: those in `layers`."""
        return self.layers

    def is_branch(self, module: Any) -> bool:
        """Whether it is of one of `branches`, and does not do the addition itself."""
        return type(module).__name__ in self.branches and not getattr(
            module, "residual_connection", False
        )

    def predict(self, output: Tensor, channels: int, guidance: Tensor | None) -> Tensor:
        """Halves of the batch: without the prompt, with it. Learned variances are dropped."""
        if output.shape[1] > channels:
            output = output[:, :channels]
        if guidance is None:
            return output
        without, with_prompt = output.chunk(2)
        return without + guidance * (with_prompt - without)

    def call(self, pipe: Any, request: Request, generator: torch.Generator | None) -> Any:
        """Run diffusers' own pipeline."""
        settings = dict(self.settings)
        if request.negative:
            settings["negative_prompt"] = [request.negative] * len(request.prompts)
        return pipe(
            prompt=list(request.prompts),
            guidance_scale=request.guidance,
            num_images_per_prompt=request.images,
            latents=request.latents,
            generator=generator,
            height=request.height,
            width=request.width,
            output_type=request.output,
            **request.grid_arguments,
            **settings,
        ).images

    def classes(self, pipe: Any) -> int:
        """None: prompts are texts."""
        del pipe
        return 0

    def conditioner(self, pipeline: Pipeline, request: Request) -> TextConditioner:
        """The pipeline up to its first call of the denoiser."""
        from search.model.conditioner import TextConditioner

        return TextConditioner(pipeline, request)
