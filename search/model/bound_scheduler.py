"""The sampler of a SubNet as a scheduler of diffusers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.model.fitted_scheduler import FittedScheduler

if TYPE_CHECKING:
    from search.core.sampler import FittedSampler
    from search.core.subnet import SubNet


def bound_scheduler(subnet: SubNet) -> Any:
    """A new one of the class and the settings that `subnet` is bound to."""
    import diffusers

    binding = subnet.binding
    return getattr(diffusers, binding.scheduler).from_config(binding.scheduler_config)


def fitted_scheduler(subnet: SubNet, sampler: FittedSampler) -> FittedScheduler:
    """One with the rows of `sampler`, which is the sampler of `subnet` or of its calls."""
    table, binding = sampler.table, subnet.binding
    is_fitted = subnet.fitted is not None
    # The scheduler's own rows fit every size, unless it shifts its timesteps with the size.
    is_sized = is_fitted or binding.scheduler_config.get("use_dynamic_shifting")
    scheduler: FittedScheduler = FittedScheduler(
        timesteps=list(sampler.timesteps),
        inputs=[row[: call + 1].tolist() for call, row in enumerate(table.inputs)],
        final=table.final.tolist(),
        latent_shape=list(binding.latent_shape) if is_sized else None,
        guidance_scale=subnet.guidance if is_fitted else None,
        num_train_timesteps=int(binding.scheduler_config.get("num_train_timesteps", 1000)),
    )
    return scheduler
