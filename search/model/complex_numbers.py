"""Complex numbers of a trace as pairs of real ones, since ONNX has no complex type."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx.traceback import annotate, preserve_node_meta
from torch.utils import _pytree as pytree

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.export import ExportedProgram
    from torch.fx import Node

_MADE_OF = "made_of"
REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}
"""The dtype of the two parts."""


def without_complex(program: ExportedProgram, inputs: dict[str, Tensor]) -> ExportedProgram:
    """The same program without complex numbers.

    Args:
        program: exported with `inputs` by name.
        inputs: that it takes.

    Raises:
        SearchError: it does with complex numbers what is not known here.
    """
    if not any(map(_makes_complex, program.graph.nodes)):
        return program
    stacks = {node.name: node.meta.get("nn_module_stack") for node in program.graph.nodes}
    with torch.no_grad(), preserve_node_meta():
        real = torch.export.export(_Real(program), (), inputs, strict=False)
    for node in real.graph.nodes:
        # Where the modules are is read off the operation that a node was made of.
        made_of = node.meta.get("custom", {}).get(_MADE_OF)
        if stacks.get(made_of) is not None:
            node.meta["nn_module_stack"] = stacks[made_of]
    return real


def _makes_complex(node: Node) -> bool:
    """Whether a node gives complex numbers."""
    return any(
        isinstance(leaf, Tensor) and leaf.is_complex()
        for leaf in pytree.tree_leaves(node.meta.get("val"))
    )


class _Real(nn.Module):
    """A program run with pairs in the place of complex tensors."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        module = program.module(check_guards=False)
        for name, child in module.named_children():
            self.add_module(name, child)
        for node in program.graph.nodes:
            node.meta.pop("unbacked_bindings", None)
        self._run = _Pairs(module).run

    def forward(self, **inputs: Tensor) -> Any:
        """The program's outputs."""
        return self._run(*inputs.values())


class _Pair(NamedTuple):
    """A complex tensor."""

    re: Tensor
    im: Tensor


class _Pairs(torch.fx.Interpreter):
    """Runs a graph with pairs; its complex constants are made into these beforehand."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self._constants: dict[str, _Pair] = {}
        for node in module.graph.nodes:
            if node.op == "get_attr":
                value = self.fetch_attr(node.target)
                if isinstance(value, Tensor) and value.is_complex():
                    parts = _Pair(value.real.clone(), value.imag.clone())
                    self._constants[node.target] = parts

    def run_node(self, n: Node) -> Any:
        with annotate({_MADE_OF: n.name}):
            return self._run_node(n)

    def _run_node(self, n: Node) -> Any:
        if n.op == "get_attr" and n.target in self._constants:
            return self._constants[str(n.target)]
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        given = pytree.tree_leaves((args, kwargs), is_leaf=_is_pair)
        if n.target is operator.getitem:
            return super().run_node(n)
        if n.op != "call_function" or not (any(map(_is_pair, given)) or _makes_complex(n)):
            return super().run_node(n)
        if any(isinstance(leaf, torch.fx.GraphModule) for leaf in given):
            at = next(i for i, leaf in enumerate(args) if isinstance(leaf, torch.fx.GraphModule))
            return _Pairs(args[at]).run(*args[at + 1 :])
        return _computed(n, args, kwargs)


def _computed(node: Node, args: Any, kwargs: Any) -> Any:
    """What an operation makes of pairs, or a pair of real numbers."""
    name = str(node.target).removeprefix("aten.").split(".")[0]
    if name == "_assert_tensor_metadata":
        return None
    if name in _RULES:
        return _RULES[name](*args, **kwargs)
    if name in _PARTWISE:
        return _by_parts(node.target, args, kwargs)
    msg = f"the denoiser computes with complex numbers ({name}), which ONNX does not have; such pipelines are not supported"
    raise SearchError(msg)


def _padded_sequence(
    sequences: list[_Pair],
    batch_first: bool = False,
    padding_value: float = 0.0,
    side: str = "right",
) -> _Pair:
    """Tensors of several lengths as one; they are padded with a real number."""
    parts = [
        torch.nn.utils.rnn.pad_sequence(
            [pair[part] for pair in sequences], batch_first, 0.0 if part else padding_value, side
        )
        for part in range(2)
    ]
    return _Pair(*parts)


def _product(x: Any, y: Any) -> _Pair:
    if _is_pair(x) and _is_pair(y):
        return _Pair(x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re)
    pair, factor = (x, y) if _is_pair(x) else (y, x)
    return _Pair(pair.re * factor, pair.im * factor)


_RULES: dict[str, Callable[..., Any]] = {
    "view_as_complex": lambda x: _Pair(x[..., 0], x[..., 1]),
    "view_as_real": lambda x: torch.stack([x.re, x.im], -1),
    "polar": lambda length, angle: _Pair(length * angle.cos(), length * angle.sin()),
    "complex": _Pair,
    "mul": _product,
    "pad_sequence": _padded_sequence,
    "real": lambda x: x.re,
    "imag": lambda x: x.im,
}
"""Operations whose parts depend on each other."""
_PARTWISE = frozenset(
    [
        "add",
        "sub",
        "neg",
        "cat",
        "stack",
        "view",
        "reshape",
        "expand",
        "slice",
        "select",
        "index",
        "unsqueeze",
        "squeeze",
        "permute",
        "transpose",
        "clone",
        "contiguous",
        "to",
        "_to_copy",
        "detach",
        "split",
        "split_with_sizes",
        "chunk",
        "alias",
        "flatten",
        "repeat",
        "index_select",
        "pad",
        "unbind",
        "lift_fresh_copy",
        "gather",
        "zeros",
        "new_zeros",
        "zeros_like",
        "copy_",
        "slice_scatter",
        "select_scatter",
    ]
)
"""Operations that do to both parts what they do to the whole."""


def _by_parts(target: Any, args: Any, kwargs: Any) -> Any:
    def part(leaf: Any, index: int) -> Any:
        if _is_pair(leaf):
            return leaf[index]
        return REAL.get(leaf, leaf) if isinstance(leaf, torch.dtype) else leaf

    made = [
        target(*of_args, **of_kwargs)
        for of_args, of_kwargs in (
            pytree.tree_map(lambda leaf, i=i: part(leaf, i), (args, kwargs), is_leaf=_is_pair)
            for i in range(2)
        )
    ]
    if isinstance(made[0], list | tuple):
        return [_Pair(re, im) for re, im in zip(*made, strict=True)]
    return _Pair(*made)


def _is_pair(value: Any) -> bool:
    return isinstance(value, _Pair)
