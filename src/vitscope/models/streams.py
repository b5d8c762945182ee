"""The residual streams of a traced pass: every sum of a stream and a branch, and what kind of branch it is.

A sum is residual where the branch was computed from the stream it is added to. What a branch does is told by
the functions it calls and by what they do to layouts, never by the names of modules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

from vitscope.models.layout import Grid
from vitscope.models.layout_rules import ALIASES, MOVES, NORMS, POINTWISE, VIEWS
from vitscope.trace import Call, Op, Trace, Value, past, reaches

Kind = Literal["attention", "mlp", "mixing"]


@dataclass(frozen=True, eq=False)
class Residual:
    """One residual sum: `total = base + branch`.

    Attributes:
        total, base, branch: the values.
        op: the sum.
        ops: what the branch is made of, in order.
        shortcut: whether the stream itself passes a map or pooling first.
        tangled: whether the branch holds a way around all its maps, a shortcut of its own.
    """

    total: Value
    base: Value
    branch: Value
    op: Op
    ops: tuple[Op, ...]
    shortcut: bool = False
    tangled: bool = False

    @cached_property
    def maps(self) -> tuple[Op, ...]:
        """The linear maps and 1 x 1 convolutions that act on the units of each place by itself."""
        return tuple(op for op in self.ops if is_pointwise(op))

    @cached_property
    def kind(self) -> Kind:
        """Whether the branch holds attention, is a map of each place (an MLP), or mixes places otherwise."""
        if any(op.name in CORES or is_weighting(op) for op in self.ops) or _products(self.ops) >= 2:
            return "attention"
        if is_additive(self.ops):
            return "mixing"
        if self.hidden is not None and not any(map(_is_dense, self.ops)):
            return "mlp"
        beside = len(self.maps) > 1 and all(map(_keeps_places, self.ops))  # several MLPs side by side
        return "mlp" if beside else "mixing"

    @cached_property
    def attends(self) -> bool:
        """Whether attention is all that it is: no map of what was summed over places, as in state spaces."""
        if any(op.name in CORES or is_weighting(op) for op in self.ops):
            return True
        products = [op for op in self.ops if op.name in PRODUCTS and len(op.image_inputs) == 2]
        for first, second in pairwise(products):
            between = [op for op in past(second.output, first.output) if op is not second]
            if any(op.name == "softmax" for op in between) or not any(map(_has_weights, between)):
                return True
        return False

    @cached_property
    def hidden(self) -> tuple[Op, Op] | None:
        """The first and the last map of an MLP: what enters the last was made by the first."""
        if len(self.maps) < 2:
            return None
        first, last = self.maps[0], self.maps[-1]
        return (first, last) if reaches(last.inputs[0], first.output) else None

    @cached_property
    def has_one_hidden_layer(self) -> bool:
        """Whether all that enters the last map is one hidden layer: no map in between, and none beside it.

        Maps on other grids, as of pooled units that gate the others, do not count.
        """
        if self.hidden is None:
            return False
        first, last = self.hidden
        grid = last.output.layout.grid if last.output.layout else None
        for op in self.maps:
            if op in (first, last) or op.output.layout is None or op.output.layout.grid != grid:
                continue
            leads_on = reaches(last.inputs[0], op.output)
            if leads_on and reaches(op.inputs[0], first.output):
                return False  # in between
            if not leads_on and op.inputs[0] is not last.inputs[0]:
                return False  # beside
        after = [op for op in self.ops if op.time > last.time and reaches(op.inputs[0], last.output)]
        if any(op.name not in (*POINTWISE, *ALIASES, *VIEWS) for op in after):
            return False  # what the map makes is joined, convolved or pooled
        return _is_activated(last.inputs[0])


CORES = ("scaled_dot_product_attention", "multi_head_attention_forward")
"""Functions that are attention from queries to context vectors."""
MAPS = ("linear", "conv2d", "matmul")
PRODUCTS = ("matmul", "einsum")
"""Functions that are attention where they multiply twice what depends on the image."""


def residuals(trace: Trace) -> list[Residual]:
    """Every residual sum of a pass, in order."""
    found: dict[Value, Residual] = {}
    for op in trace.ops:
        if op.name == "add" and len(op.inputs) == 2 and all(x.shape == op.output.shape for x in op.inputs):
            sum_ = _on_stream(op, found) or _on_shortcut(op)
            if sum_:
                found[op.output] = sum_
    return list(found.values())


def _on_stream(op: Op, found: Mapping[Value, Residual]) -> Residual | None:
    """A sum whose branch was computed from its base, or whose base is the sum of another branch."""
    ways = [] if op.inputs[0] is op.inputs[1] else [(*op.inputs,), (*op.inputs[::-1],)]
    grown = [way for way in ways if reaches(way[1], _unscaled(way[0]))]
    beside = [way for way in ways if root(way[0]) in found and way[1].from_image]
    for base, branch in (*grown, *beside):
        own = Residual(op.output, base, branch, op, tuple(_between(_unscaled(base), branch)))
        return own if own.ops else _beside(own, found)
    return None


def _beside(sum_: Residual, found: Mapping[Value, Residual]) -> Residual:
    """A branch beside the one before it: if it is an MLP, made of what it does to the stream it left."""
    left = [value for other in found.values() for value in (other.total, other.base)]
    left = [value for value in left if reaches(sum_.branch, value)]
    if not left:
        return sum_
    origin = max(left, key=lambda value: value.number)
    beside = replace(sum_, ops=tuple(_between(origin, sum_.branch)))
    return beside if beside.kind == "mlp" else sum_


def _on_shortcut(op: Op) -> Residual | None:
    """A sum in which the stream itself passes a map or pooling first: the side that does less is the base."""
    entry = op.within.input
    if entry is None or len(op.image_inputs) != 2 or not all(reaches(x, entry) for x in op.image_inputs):
        return None
    sides = {value: tuple(_between(entry, value)) for value in op.image_inputs}
    if len(sides) < 2:
        return None
    base, branch = sorted(sides, key=lambda value: len(sides[value]))
    tangled = _bypasses(branch, entry)
    sum_ = Residual(op.output, base, branch, op, sides[branch], shortcut=True, tangled=tangled)
    few, many = (sum(op.name == "conv2d" for op in sides[value]) for value in (base, branch))
    attends = Residual(op.output, branch, base, op, sides[base]).kind == "attention"
    return sum_ if few <= 1 < many or (sum_.kind == "attention" and not attends) else None


def _bypasses(value: Value, origin: Value) -> bool:
    """Whether some way from one value to another passes no map."""
    front, seen = [value], {value}
    while front:
        op = front.pop().made_by
        if op is None or op.name in MAPS:
            continue
        new = {given for given in op.image_inputs if given.number >= origin.number} - seen
        if origin in new:
            return True
        seen |= new
        front += new
    return False


def is_pointwise(op: Op) -> bool:
    """Whether it is a linear map, or a 1 x 1 convolution, of the units of each place by itself."""
    if op.name not in MAPS or len(op.inputs) < 2 or op.inputs[1].from_image:
        return False
    given, made = op.inputs[0].layout, op.output.layout
    if op.name == "conv2d" and op.inputs[1].shape[1:] != (op.inputs[0].shape[1], 1, 1):
        return False
    return given is not None and made is not None and given.keys is None and given.grid == made.grid


def is_weighting(op: Op) -> bool:
    """Whether it multiplies values by attention weights that a softmax made."""
    made = op.output.layout
    if op.name != "matmul" or len(op.inputs) != 2 or made is None or made.keys is not None:
        return False
    return any(is_weights(value) for value in op.inputs)


def is_weights(value: Value) -> bool:
    """Whether these go from places to places, as scores and attention weights do."""
    return value.layout is not None and value.layout.keys is not None


def is_additive(ops: Sequence[Op]) -> bool:
    """Whether these weigh every place once and multiply what lies at each place with the sum of all.

    That is additive or separable attention (SwiftFormer, section 3.2; MobileViTv2, section 3.1): no product
    of queries and keys, so no weights from place to place.
    """
    summaries = [op for op in ops if op.name == "sum" and _sums_weighed_places(op)]
    products = [op for op in ops if op.name == "mul" and len(op.image_inputs) == 2]
    return any(
        [reaches(given, summary.output) for given in product.image_inputs].count(True) == 1
        for summary in summaries
        for product in products
    )


def _sums_weighed_places(op: Op) -> bool:
    given = op.inputs[0]
    layout, made = given.layout, given.made_by
    axes = op.settings.get(1, op.settings.get("dim"))
    if layout is None or made is None or axes is None or not layout.has_cells:
        return False
    over = axes if isinstance(axes, tuple) else (axes,)
    weighed = made.name == "mul" and len(made.image_inputs) == 2
    return weighed and not all(layout.lies_alike[axis] for axis in over)


def root(value: Value) -> Value:
    """The value that this one is a mere view of, in another shape."""
    while value.made_by and value.made_by.name in (*VIEWS, *ALIASES) and value.made_by.inputs:
        value = value.made_by.inputs[0]
    return value


def _unscaled(value: Value) -> Value:
    """What a stream was before it was multiplied by a weight, as some models do before they add to it."""
    op = value.made_by
    return op.image_inputs[0] if op and op.name == "mul" and len(op.image_inputs) == 1 else value


def smallest_holder(trace: Trace, times: Sequence[int]) -> Call:
    """The innermost module call during which all of this happened."""
    holders = [call for call in trace.calls if all(call.holds(time) for time in times)]
    return min(holders, key=lambda call: call.end - call.start)


def _between(origin: Value, value: Value) -> list[Op]:
    """The functions on the way from one value to another, in order."""
    found = set(past(value, origin))
    reached = {origin}
    ops = []
    for op in sorted(found, key=lambda op: op.time):
        if any(given in reached for given in op.inputs):
            reached.update(op.outputs)
            ops.append(op)
    return ops


def _is_activated(value: Value) -> bool:
    """Whether anything that is not linear was done to a value since the last map or convolution before it."""
    front = [value]
    while front:
        op = front.pop().made_by
        if op is None or op.name in MAPS:
            continue
        scaled = op.name == "mul" and len(op.image_inputs) == 1
        if not scaled and op.name not in (*MOVES, *ALIASES, *NORMS, "add", "sub"):
            return True
        front.extend(op.image_inputs)
    return False


def _keeps_places(op: Op) -> bool:
    """Whether nothing passes from place to place: sums over what lies alike have a layout, others none."""
    if is_pointwise(op) or op.name in (*POINTWISE, *ALIASES, *VIEWS):
        return True
    made = op.output.layout
    return op.name in ("stack", "sum") and made is not None and made.grid == _grid_of(op.inputs[0])


def _grid_of(value: Value) -> Grid | None:
    return value.layout.grid if value.layout else None


def _is_dense(op: Op) -> bool:
    """Whether it is a convolution over several places that also mixes units: not depthwise."""
    if op.name != "conv2d" or len(op.inputs) < 2:
        return False
    _, per_group, rows, columns = op.inputs[1].shape
    return rows * columns > 1 and per_group > 1


def _has_weights(op: Op) -> bool:
    """Whether it is a linear map or convolution with fixed weights."""
    return op.name in (*MAPS, "conv1d") and len(op.inputs) > 1 and not op.inputs[1].from_image


def _products(ops: Sequence[Op]) -> int:
    """How many matrix products there are of values that both depend on the image."""
    return sum(op.name in PRODUCTS and all(given.from_image for given in op.inputs) for op in ops)
