"""The full sampler that a bundle's SubNet stands in for, as a bundle beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engines.errors import EngineError
from exporter.bundle import MANIFEST, Bundle
from search.core.table import keep_of, whole_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from search.core.subnet import SubNet


def is_full(subnet: SubNet) -> bool:
    """Whether it runs every block at every step of the sampler that it stands in for, and splits no call."""
    return subnet.fitted is None and keep_of(subnet) == 1 and not subnet.binding.split_streams


def full_bundle(
    bundle: Bundle,
    pipeline: Path,
    *,
    given: Path | None,
    folder: Path,
    report: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """The full sampler's bundle with the shape and dtype of `bundle`, and nothing quantised in the denoiser.

    Args:
        bundle: whose full sampler is wanted; it may be that itself.
        pipeline: directory of the pipeline it was exported from.
        given: one that is there already, or None.
        folder: where to export one otherwise; one that an earlier call left there is used again.
        report: called with a short progress message.

    Raises:
        EngineError: `given`, or what is in `folder`, is another sampler's or another shape's.
    """
    if is_full(bundle.subnet) and bundle.plan is None:
        return bundle
    place = folder if given is None else given
    if given is None and not (folder / MANIFEST).exists():
        from exporter.exporting import export

        wanted = full_subnet(bundle.subnet, pipeline)
        size = (bundle.shape.height, bundle.shape.width)
        export(
            pipeline,
            wanted,
            folder,
            sizes=(size,),
            batches=(bundle.shape.images,),
            dtype=bundle.dtype,
            text_dtype=bundle.text_dtype,
            vae_dtype=bundle.vae_dtype,
            loras=bundle.loras,
            live_loras=bundle.live_loras,
            ip_adapter=bundle.ip_adapter,
            report=lambda text, *_: report(f"export the full sampler: {text}"),
        )
    found = Bundle.open(place, **bundle.shape.asked)
    _require(bundle, found)
    return found


def full_subnet(subnet: SubNet, pipeline: Path) -> SubNet:
    """Every block at every step of the sampler that `subnet` stands in for, as the pipeline makes its calls.

    Calls that were split for the SubNet are one call again, which is faster.

    Raises:
        EngineError: the SubNet does not say which sampler that is.
    """
    from search.core.errors import SearchError
    from search.model.opening import open_for
    from search.model.whole import full_of

    found, binding = whole_table(subnet), subnet.binding
    if found is not None and not binding.split_streams:
        return found
    together = replace(subnet, binding=replace(binding, split_streams=False))
    try:
        return full_of(open_for(together, pipeline, weights=False), subnet)
    except SearchError as error:
        msg = f"{error}; or export the full sampler and give it with --full"
        raise EngineError(msg) from error


def _fused(bundle: Bundle) -> list[tuple[str, float]]:
    """Its LoRAs and IP-Adapter, by checksum and scale."""
    return [(each.sha256[:12], each.scale) for each in bundle.added]


def _require(bundle: Bundle, full: Bundle) -> None:
    """Refuse a `full` that is not the full sampler of `bundle`."""
    mine, theirs = bundle.subnet, full.subnet
    pairs = {
        "denoiser": (mine.binding.fingerprint, theirs.binding.fingerprint),
        "scheduler": (mine.binding.scheduler, theirs.binding.scheduler),
        "split calls": (False, theirs.binding.split_streams),
        "number of calls": (mine.full_calls, theirs.full_calls),
        "dtype": (bundle.dtype, full.dtype),
        "precision": (bundle.dtype, full.precision),
        "dtypes of text encoders and autoencoder": (bundle.parts, full.parts),
        "LoRAs and IP-Adapter": (_fused(bundle), _fused(full)),
        "guidance": (mine.guidance, theirs.guidance),
        "keep": (1.0, keep_of(theirs)),
    }
    for name, (wanted, found) in pairs.items():
        if wanted != found:
            msg = (
                f"{str(full.path)!r} has {name} {found!r}, but the full sampler of "
                f"{str(bundle.path)!r} has {wanted!r}; give another with --full, or remove it"
            )
            raise EngineError(msg)
