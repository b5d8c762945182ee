"""Blocks on feature maps without residual sums: dense layers, and plain stacks of convolutions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from vitscope.models.claims import Plan
from vitscope.models.layout_rules import POINTWISE, RESAMPLINGS
from vitscope.models.listed import pattern
from vitscope.models.stages import Stage, convolutions, inside, is_map, on_maps
from vitscope.trace import Call, Op, Value, reaches


def dense_stages(plan: Plan) -> list[Stage]:
    """The outermost modules with convolutions whose output is later joined to what they took in."""
    joins = [op for op in plan.trace.ops if op.name == "cat" and len(op.image_inputs) > 1]
    found: list[Call] = []
    for call in plan.trace.calls:
        given, made = call.input, call.output
        if given and made and is_map(given) and is_map(made) and _convolves(plan, call, 2):
            with_input = [
                op for op in joins if made in op.inputs and any(_older(x, given) for x in op.inputs)
            ]
            if with_input and not any(inside(call, other) for other in found):
                found.append(call)
    return [
        Stage(call.input, call.output, call)
        for call in found
        if call.input and call.output and _joins_of(call, found, joins) > 1
    ]


def _joins_of(call: Call, layers: Sequence[Call], joins: Sequence[Op]) -> int:
    """How often what this layer, or one listed with it, made is joined: only once where they are one block.

    A layer that is listed alone counts as dense.
    """
    beside = [layer.output for layer in layers if _parent(layer) == _parent(call)]
    found = sum(any(made in op.inputs for made in beside) for op in joins)
    return found if len(beside) > 1 else 2


def _older(value: Value, given: Value) -> bool:
    return value is given or reaches(given, value)


def plain_stages(plan: Plan) -> list[Stage]:
    """Modules with one convolution over several places each, and what follows them; before them, a stem."""
    convolutions = [op for op in plan.trace.ops if _is_spatial(op)]
    joins = any(op.name in ("cat", "add") and len(op.image_inputs) > 1 for op in plan.trace.ops)
    if joins or not all(reaches(b.inputs[0], a.output) for a, b in pairwise(convolutions)):
        return []  # side by side: no plain stack
    calls = [call for call in plan.trace.calls if call.path and on_maps(call)]
    calls = [call for call in calls if sum(call.holds(op.time) for op in convolutions) == 1]
    many = Counter(pattern(call.path) for call in calls)
    level = max(many, key=lambda path: (many[path], -path.count(".")), default="")
    blocks = [call for call in calls if pattern(call.path) == level]
    stem = [op for op in convolutions if blocks and op.time < blocks[0].start]
    if len(blocks) <= len(stem) or len(blocks) + len(stem) < len(convolutions):
        blocks = [op.within for op in convolutions]
    return [
        Stage(call.input, _with_what_follows(plan, call.output), call)
        for call in blocks
        if call.input and call.output
    ]


def _is_spatial(op: Op) -> bool:
    """Whether it is a convolution over several places, but not over all, that a module does."""
    if op.name != "conv2d" or not is_map(op.output) or op.within.output is not op.output:
        return False
    return op.inputs[1].shape[-1] > 1 and op.inputs[1].shape[2:] != op.inputs[0].shape[2:]


def _with_what_follows(plan: Plan, value: Value) -> Value:
    users = [op for op in plan.trace.ops if value in op.inputs]
    only = users[0] if len(users) == 1 else None
    if only and only.name in POINTWISE and len(only.image_inputs) == 1 and only.output.layout is not None:
        return _with_what_follows(plan, only.output)
    return value


def _convolves(plan: Plan, call: Call, count: int) -> bool:
    return convolutions(plan, call) >= count and not any(
        op.name in RESAMPLINGS for op in plan.trace.during(call)
    )


def _parent(call: Call) -> str:
    return call.path.rpartition(".")[0]
