"""What every kind of torch function does to a layout: one rule a kind, and a table from names to rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vitscope.models.layout import (
    PREFIXES,
    Layout,
    coarser,
    is_constant,
    maps_like,
    tensors_in,
    without_margins,
)
from vitscope.models.layout_products import fused, mapped, multi_head, product
from vitscope.models.layout_step import Followed, Step

JOINED = -1
"""Stands, while tensors are joined, for the places of those that lie nowhere known."""


def follow(step: Step) -> Followed:
    """The layout of what a function returned (or a list of them), None where no rule says."""
    rule = RULES.get(step.name)
    if rule is None or step.kwargs.get("out") is not None:
        return None
    try:
        return rule(step)
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
        return None  # an unusual call: nothing is claimed about what it returns


def _kept(step: Step) -> Followed:
    """Element by element: as the operands of the output's shape, if they agree on places.

    If not, but one was computed from the other, it is a branch that is added to its stream.
    """
    given = [tensor for tensor in tensors_in((step.args, step.kwargs)) if tuple(tensor.shape) == step.shape]
    known = [(tensor, layout) for tensor in given if (layout := step.layout(tensor))]
    weights = [(tensor, layout) for tensor, layout in known if layout.keys]
    if weights and not all(weights[0][1].same_keys(layout) for _, layout in weights[1:]):
        return None
    known = weights or known
    if not known or all(known[0][1].same_places(layout) for _, layout in known[1:]):
        return min((layout for _, layout in known), key=lambda layout: layout.has_padding, default=None)
    if step.name == "add" and len(known) == 2:
        (one, first), (other, second) = known
        return first if step.made_from(other, one) else second if step.made_from(one, other) else None
    return None


def _same(step: Step) -> Followed:
    """As the first operand, whatever type or device a second one lends."""
    return step.layout_of(0, "input")


def _moved(step: Step) -> Followed:
    """The function once more, on the numbers of places and units."""
    indices = [*tensors_in((step.args[1:], step.kwargs))] if step.name in INDEXED else []
    if any(step.from_image(tensor) for tensor in indices):
        return None  # another image would be ordered in another way
    layouts = [found for tensor in tensors_in(step.args) if (found := step.layout(tensor))]
    grid = next((layout.grid for layout in layouts if layout.has_cells), layouts[0].grid if layouts else None)
    if grid is None or len({layout.keys for layout in layouts}) > 1:
        return None
    if any(layout.grid != grid and layout.has_cells for layout in layouts):
        return None  # tokens of several grids side by side

    blank = JOINED if step.name == "cat" else 0

    def again(part: str) -> Any:
        def numbers(tensor: Tensor) -> Tensor:
            if any(tensor is index for index in indices):
                return tensor.cpu()
            layout = step.layout(tensor)
            if layout is not None:
                found: Tensor = getattr(layout if layout.grid == grid else layout.on(grid), part)
                return found.detach()  # what changes its shape in place must not change the layout
            return torch.full(tensor.shape, blank, dtype=torch.int32)

        args, kwargs = _replaced(step.args, numbers), _replaced(step.kwargs, numbers)
        if step.name == "pad":  # whatever it pads with lies nowhere
            return functional.pad(args[0], step.operand(1, "pad"))
        if step.name in ("view", "view_as", "reshape_as"):
            return args[0].reshape(step.shape)
        return step.function(*args, **kwargs)

    place, unit = again("place"), again("unit")
    one_source = len({layout.source for layout in layouts}) == 1
    made = replace(layouts[0], grid=grid, source=layouts[0].source if one_source else step.number)
    if isinstance(place, Tensor):
        joined = replace(made, place=place, unit=unit)
        return _renumbered(joined, one_source=one_source) if step.name == "cat" else joined
    return [replace(made, place=one, unit=other) for one, other in zip(place, unit, strict=True)]


def _assigned(step: Step) -> Followed:
    """`x[index] = y`: as x was, unless y is known to lie elsewhere."""
    target, value, given = step.layout_of(0), step.layout_of(2), step.operand(2)
    if target is None or not isinstance(given, Tensor) or not step.from_image(given):
        return target
    if value is None or any(step.from_image(index) for index in tensors_in(step.args[1])):
        return None
    part = target.move(lambda numbers: numbers[step.args[1]])
    return target if part.shape == value.shape and part.same_places(value) else None


def _renumbered(layout: Layout, *, one_source: bool) -> Layout:
    """With prefix tokens numbered where constants were joined on, and units where sources were."""
    layout = _with_prefix(layout, joined=layout.place == JOINED)
    if one_source or layout.keys or not layout.shape:
        return layout
    axes = [axis for axis, alike in enumerate(layout.lies_alike) if alike]
    units = [axis for axis in axes if not is_constant(layout.unit, axis)]
    if len(units) != 1:
        return layout
    count = layout.shape[units[0]]
    shape = [count if axis == units[0] else 1 for axis in range(len(layout.shape))]
    unit = (1 + torch.arange(count, dtype=torch.int32)).view(shape).expand(layout.shape)
    return replace(layout, unit=unit)


def _with_prefix(layout: Layout, *, joined: Tensor) -> Layout:
    """Rows of "image token unit" that were joined on are prefix tokens, in order; padding is none."""
    layout = replace(layout, place=layout.place.clamp_min(0), unit=layout.unit.clamp_min(0))
    place = layout.place
    if place.ndim != 3 or layout.keys or not is_constant(place, 2) or not is_constant(joined, 2):
        return layout
    rows, new = place[..., 0], joined[0, :, 0]
    real = rows[:, rows[0] > 0]
    if not bool(new.any()) or real.numel() == 0 or not torch.equal(new.expand_as(rows), joined[..., 0]):
        return layout
    image = (real - 1) // layout.span
    taken = ((real - 1) % layout.span).max().item() + 1
    if not is_constant(image, 1) or int(new.sum()) + max(0, taken - layout.cells) > PREFIXES:
        return layout
    slots = max(taken, layout.cells) + torch.arange(int(new.sum()), dtype=torch.int32)
    rows = rows.clone()
    rows[:, new] = (1 + image[:, :1] * layout.span + slots).to(rows.dtype)
    units = torch.where(joined, layout.unit.amax(dim=(0, 1), keepdim=True), layout.unit)
    return replace(layout, place=rows[..., None].expand(layout.shape), unit=units)


def _linear(step: Step) -> Followed:
    """A linear map over the last axis: of the units of a place, or of a block of places."""
    layout = step.layout_of(0, "input")
    return mapped(step, layout) if layout else None


def _convolved(step: Step) -> Followed:
    """From feature map to feature map; a 1 x 1 convolution may also mix the heads of attention weights."""
    layout = step.layout_of(0, "input")
    if layout is None or len(step.shape) != 4:
        return None
    if layout.keys:
        first = (step.shape[0], 1, *step.shape[2:])
        alike = is_constant(layout.place, 1) and is_constant(layout.unit, 1) and layout.shape[2:] == first[2:]
        return layout.move(lambda numbers: numbers[:, :1].expand(step.shape)) if alike else None
    return maps_like(_of_blocks(without_margins(layout)), step.shape, source=step.number)


def _of_blocks(layout: Layout) -> Layout:
    """The layout of a feature map whose units hold blocks of places (space to depth), as one of blocks."""
    if len(layout.shape) != 4 or layout.lies_alike[1]:
        return layout
    found = coarser(layout, layout.place.movedim(1, -1))
    return replace(layout, grid=found[0], place=found[1][:, None].expand(layout.shape)) if found else layout


def _reduced(step: Step) -> Followed:
    """Sums and means over axes along which the place is one, or over blocks of places."""
    layout, axes = step.layout_of(0, "input"), step.operand(1, "dim")
    if layout is None or axes is None or layout.keys:
        return None
    axes = sorted({axis % len(layout.shape) for axis in ([axes] if isinstance(axes, int) else axes)})
    place, unit = (
        part.movedim(axes, [*range(-len(axes), 0)]).flatten(-len(axes))
        for part in (layout.place, layout.unit)
    )
    if not is_constant(unit, -1):
        return None
    found = (layout.grid, place[..., 0]) if is_constant(place, -1) else coarser(layout, place)
    if found is None:
        return None
    grid, place = found
    unit = unit[..., 0]
    if len(step.shape) == len(layout.shape):  # keepdim
        for axis in axes:
            place, unit = place.unsqueeze(axis), unit.unsqueeze(axis)
    return Layout(grid, place, unit, layout.source)


def _replaced(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_replaced(part, change) for part in value)
    if isinstance(value, dict):
        return {key: _replaced(part, change) for key, part in value.items()}
    return value


ALIASES = ("contiguous", "clone", "to", "float", "half", "type_as", "type", "detach", "dropout")
"""Functions whose output is their input, as far as places and units go."""
VIEWS = (
    *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "permute", "transpose", "swapaxes"),
    *("movedim", "moveaxis", "swapdims", "squeeze", "unsqueeze", "mT", "T", "t", "adjoint"),
)
"""Functions that keep every element and only change shape and order."""
MOVES = (
    *VIEWS,
    *(
        "getitem",
        "unbind",
        "chunk",
        "split",
        "tensor_split",
        "narrow",
        "select",
        "index_select",
        "cat",
        "stack",
    ),
    *(
        "expand",
        "expand_as",
        "repeat",
        "tile",
        "repeat_interleave",
        "roll",
        "flip",
        "pad",
        "hstack",
        "vstack",
    ),
)
"""Functions that only move, drop, repeat or pad elements."""
INDEXED = ("getitem", "index_select", "tensor_split", "repeat_interleave")
"""Those of them whose further tensors say what to take, and are not taken themselves."""
NORMS = ("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm", "normalize")
POINTWISE = (
    *(
        "add",
        "sub",
        "mul",
        "div",
        "pow",
        "neg",
        "exp",
        "log",
        "sqrt",
        "rsqrt",
        "abs",
        "square",
        "clamp",
        "sin",
    ),
    *(
        "cos",
        "tanh",
        "where",
        "masked_fill",
        "lerp",
        "addcmul",
        "maximum",
        "minimum",
        "softmax",
        "log_softmax",
    ),
    *("relu", "relu6", "gelu", "silu", "mish", "elu", "celu", "selu", "prelu", "leaky_relu", "hardswish"),
    *("sigmoid", "hardsigmoid", "hardtanh", "softplus", "erf", "dropout2d", "feature_dropout"),
    *NORMS,
)
"""Functions whose output has the input's places and units, one for one (norms included)."""
CONVOLUTIONS = ("conv2d",)
RESAMPLINGS = (
    *("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate", "lp_pool2d"),
    *("conv_transpose2d", "upsample"),
)
"""Functions from feature map to feature map."""
REDUCTIONS = ("mean", "sum", "amax", "amin")
ATTENTION = {"scaled_dot_product_attention": fused, "multi_head_attention_forward": multi_head}

RULES: dict[str, Callable[[Step], Followed]] = {
    **dict.fromkeys(ALIASES, _same),
    **dict.fromkeys(POINTWISE, _kept),
    **dict.fromkeys(MOVES, _moved),
    **dict.fromkeys((*CONVOLUTIONS, *RESAMPLINGS), _convolved),
    **dict.fromkeys(REDUCTIONS, _reduced),
    "linear": _linear,
    "setitem": _assigned,
    "matmul": product,
    **ATTENTION,
}
"""Name of a function -> its rule."""
