"""The sampler of a SubNet as a scheduler of diffusers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.model.fitted_scheduler import FittedScheduler

if TYPE_CHECKING:
    from search.core.sampler import FittedSampler, SamplerTable
    from search.core.subnet import SubNet


def bound_scheduler(subnet: SubNet) -> Any:
    """A new one of the class and the settings that `subnet` is bound to."""
    import diffusers

    binding = subnet.binding
    return getattr(diffusers, binding.scheduler).from_config(binding.scheduler_config)


def fitted_scheduler(subnet: SubNet, sampler: FittedSampler) -> FittedScheduler:
    """One with the rows of `sampler`, which is the sampler of `subnet` or of its calls."""
    table, binding, by_scale = sampler.table, subnet.binding, sampler.by_scale
    is_fitted = subnet.fitted is not None
    # The scheduler's own rows fit every size, unless it shifts its timesteps with the size.
    is_sized = is_fitted or binding.scheduler_config.get("use_dynamic_shifting")
    scheduler: FittedScheduler = FittedScheduler(
        timesteps=list(sampler.timesteps),
        inputs=_inputs(table),
        final=table.final.tolist(),
        by_scale=by_scale
        and {
            **vars(by_scale.scales),
            "powers": [
                {"inputs": _inputs(power), "final": power.final.tolist()}
                for power in by_scale.powers
            ],
        },
        latent_shape=list(binding.latent_shape) if is_sized else None,
        guidance_scale=subnet.guidance if is_fitted else None,
        num_train_timesteps=int(binding.scheduler_config.get("num_train_timesteps", 1000)),
    )
    return scheduler


def _inputs(table: SamplerTable) -> list[list[float]]:
    return [row[: call + 1].tolist() for call, row in enumerate(table.inputs)]
