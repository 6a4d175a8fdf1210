"""Removable layers and a 50 % SubNet at full size, random weights: `python -m benchmarks.laptop_full_size sd15`."""

from __future__ import annotations

import re
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from benchmarks.export import save_pipeline
from benchmarks.record import write
from exporter.carve import carve
from exporter.exporting import export
from exporter.traced import trace_denoiser
from search.core.program import plan_program
from search.core.subnet import Granularity
from search.laptop.knapsack import choose
from search.laptop.layers import Layers, layers_of, once, params_of
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline

if TYPE_CHECKING:
    from exporter.trace import Master
    from search.core.subnet import SubNet
    from search.model.pipeline import Pipeline

DTYPES = {"sd15": "float32", "sdxl": "float16"}
SHORTCUT = ".conv_shortcut."
KINDS = {
    "spatial transformers": r"attentions\.\d+$",
    "transformer blocks": r"transformer_blocks\.\d+$",
    "attention": r"attn\d$",
    "feed-forward": r"ff$",
}


@click.command()
@click.argument("name", type=click.Choice(list(DTYPES)))
@click.option("--keep", default=0.5, show_default=True)
@click.option("--export/--no-export", "with_export", default=True)
def main(name: str, keep: float, with_export: bool) -> None:
    """Count what can be removed, remove half of the parameters, carve and export."""
    dtype = DTYPES[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline"
        save_pipeline(name, path)
        pipeline = open_pipeline(path, weights=False)
        whole = once(full(pipeline, Options(granularity=Granularity.LAYER, steps=2, guidance=5.0)))
        layers = layers_of(whole)
        shares = layers.shares(params_of)
        began = time.perf_counter()
        scores = np.asarray(shares) * np.random.default_rng(0).random(len(shares))
        chosen = choose(layers.ends, shares, scores.tolist(), keep=keep)
        seconds = time.perf_counter() - began
        pruned = layers.without(chosen)
        master = trace_denoiser(pipeline, whole, frozenset(layers.blocks), 1, dtype)
        found = {
            "params": whole.topology.params,
            "removable": _table(pipeline, layers, shares),
            "knapsack_seconds": round(seconds, 2),
            "removed": [layers.names[i] for i in sorted(chosen)],
            "params_kept": params_of(pruned),
            **_shrinking(master, layers, shares, chosen),
        }
        click.echo(found | {"removed": len(chosen)})
        if with_export:
            began = time.perf_counter()
            bundle = export(path, _bound(path, chosen), Path(folder) / "bundle", dtype=dtype)
            size = (bundle.path / "weights.bin").stat().st_size
            found["export"] = {"seconds": round(time.perf_counter() - began), "weights_bytes": size}
    click.echo(write(f"laptop-full-size-{name}", found))


def _bound(path: Path, chosen: frozenset[int]) -> SubNet:
    """The SubNet to export, of two steps."""
    options = Options(granularity=Granularity.LAYER, steps=2, guidance=5.0)
    return layers_of(full(open_pipeline(path, weights=False), options)).without(chosen)


def _table(pipeline: Pipeline, layers: Layers, shares: tuple[float, ...]) -> dict[str, Any]:
    """Per kind of layer, how many there are and how many parameters go with all of them."""
    kinds: defaultdict[str, list[float]] = defaultdict(list)
    for name, share in zip(layers.names, shares, strict=True):
        shortcut = getattr(pipeline.denoiser.get_submodule(name), "conv_shortcut", None)
        resnet = "ResNets without shortcut" if shortcut is None else "ResNets with shortcut"
        kinds[next((k for k, end in KINDS.items() if re.search(end, name)), resnet)].append(share)
    total = layers.full.topology.params
    return {
        kind: {"count": len(each), "params": round(sum(each) * total)}
        for kind, each in kinds.items()
    }


def _shrinking(
    master: Master, layers: Layers, shares: tuple[float, ...], chosen: frozenset[int]
) -> dict[str, Any]:
    """Nodes and bytes of weights, before and after, beside what the layers have one by one."""
    whole, pruned = _size(master, layers.full), _size(master, layers.without(chosen))
    alone: dict[tuple[str, float], int] = {}
    nodes = 0
    for layer in chosen:
        kind = (re.sub(r"\d+", "", layers.names[layer]), shares[layer])
        if kind not in alone:
            alone[kind] = whole[0] - _size(master, layers.without([layer]))[0]
        nodes += alone[kind]
    inside = tuple(f"denoiser.{layers.names[layer]}." for layer in chosen)
    removed = {
        n: size for n, size in whole[1].items() if n.startswith(inside) and SHORTCUT not in n
    }
    left = sorted(pruned[1].keys() & removed.keys())
    return {
        "nodes": {"whole": whole[0], "pruned": pruned[0], "of_removed_layers": nodes},
        "weights_left_of_removed_layers": left,
        "bytes": {
            "whole": sum(whole[1].values()),
            "pruned": sum(pruned[1].values()),
            "of_removed_layers": sum(removed.values()),
        },
    }


def _size(master: Master, subnet: SubNet) -> tuple[int, dict[str, int]]:
    """Nodes, and bytes of the weights by name, of the one step graph of a SubNet."""
    [signature] = plan_program(once(subnet), 1).signatures
    graph = carve(master, signature, "step").graph
    values = graph.initializers.items()
    sizes = {name: v.const_value.nbytes for name, v in values if v.const_value is not None}
    return len(list(graph)), sizes


if __name__ == "__main__":
    main()
