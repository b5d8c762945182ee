"""Blocks on feature maps that have residual sums, and those that are listed with them.

A block is the module of a residual sum of a branch that convolves. Where such modules stand in numbered
lists, all that are listed at their level count, in order, so that block b of stage s is what the model's own
lists have there: those without a shortcut too, and blocks of attention among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vitscope.models.blocks import ACTIVATIONS, Block, Span
from vitscope.models.claims import Plan
from vitscope.models.layout import is_map as layout_of_map
from vitscope.models.layout_rules import POINTWISE
from vitscope.models.listed import beside_blocks, is_item, is_of_parts, item, item_around, list_of, pattern
from vitscope.models.streams import Residual, root
from vitscope.trace import Call, Op, Value, reaches

Found = Mapping[Call, Residual]
"""The modules that may be blocks, and the sum that each makes."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One block of a stage.

    Attributes:
        entry, out: what enters and leaves it.
        call: the module.
        sum: the residual sum that it hands out, if it has one.
        goes_on: whether more than an activation function comes after a residual sum in it.
    """

    entry: Value
    out: Value
    call: Call
    sum: Residual | None = None
    goes_on: bool = False


def residual_stages(plan: Plan, sums: Sequence[Residual], blocks: Sequence[Block]) -> list[Stage]:
    """The blocks on feature maps in order, where `blocks` were found already."""
    owners = _outermost(plan, _owners(plan, sums, blocks))
    whole = {_whole(plan, call, owners, blocks): sum_ for call, sum_ in owners.items()}
    chosen = _in_lists_of_blocks(plan, whole, blocks)
    peers = _with_peers(plan, chosen, blocks)
    found = [stage for call in peers for stage in _stages(call, whole.get(call))]
    return _without_downsampling(found, alone=not blocks)


def _owners(plan: Plan, sums: Sequence[Residual], blocks: Sequence[Block]) -> dict[Call, Residual]:
    """The modules of residual sums, and which is the last of theirs."""
    owners: dict[Call, Residual] = {}
    for sum_ in sums:
        owner = _owner(plan, sum_)
        if owner and not _taken(owner, blocks):
            before = owners.get(owner)  # summed in one module, but not one after the other
            beside = before is not None and not reaches(sum_.branch, before.total)
            parts = beside or _is_summed_on(owner.output, sum_.total)
            owners[owner] = replace(sum_, tangled=True) if parts else sum_
    return owners


def _outermost(plan: Plan, owners: Found) -> dict[Call, Residual]:
    """Those that are in no other, nor in a module like one of them whose shortcut is not understood."""
    alike = {_class(plan, call) for call in owners}
    peers = [call for call in plan.trace.calls if _class(plan, call) in alike and on_maps(call)]
    return {call: sum_ for call, sum_ in owners.items() if not any(inside(call, other) for other in peers)}


def _whole(plan: Plan, call: Call, owners: Found, blocks: Sequence[Block]) -> Call:
    """The listed module that a residual part is the one of, in which the stream keeps its shape."""
    outer = item_around(call)
    if outer is None or outer.shape_in != outer.shape_out or not on_maps(outer) or _taken(outer, blocks):
        return call
    part = not is_item(call.path) or is_of_parts(plan, list_of(call.path))
    alone = not any(inside(other, outer) for other in owners if other is not call)
    return outer if part and alone else call


def _in_lists_of_blocks(plan: Plan, found: Found, blocks: Sequence[Block]) -> list[Call]:
    """Those in the lists of blocks: not in a stem, nor among the parts of a downsampling."""
    listed = [call.path for call in found if is_item(call.path)]
    lists = [*listed, *(item(block.holder.path) for block in blocks if item(block.holder.path))]
    beside = beside_blocks(lists)
    left_out = [call for call in found if call.path in beside or (lists and _is_stray(plan, call, found))]
    if left_out:
        where = ", ".join(dict.fromkeys(pattern(call.path).replace("#", "*") for call in left_out))
        plan.notes.append(f"no stages.s.b for the residual sums in {where}: not in the lists of blocks")
    return [call for call in found if call not in left_out]


def _is_stray(plan: Plan, call: Call, found: Found) -> bool:
    """Whether a module in no list is no block either: it comes first, as a stem, or is like no listed one."""
    alike = [other for other in found if item(other.path) and type(plan.part(other)) is type(plan.part(call))]
    return not item(call.path) and not any(other.start < call.start for other in alike)


def _with_peers(plan: Plan, chosen: Sequence[Call], blocks: Sequence[Block]) -> list[Call]:
    """These blocks and what is listed at their level, in order."""
    level = {pattern(call.path) for call in chosen}
    lists = {list_of(call.path) for call in chosen}
    return [
        call
        for call in plan.trace.calls
        if call in chosen
        or (
            pattern(call.path) in level
            and on_maps(call)
            and not any(_overlap(call, (other.start, other.end)) for other in chosen)
            and _is_peer(plan, call, lists, blocks)
        )
    ]


def _is_peer(plan: Plan, call: Call, lists: set[str], blocks: Sequence[Block]) -> bool:
    """Whether a module at the level of blocks is one: where lists are listed, all that convolves is.

    A lone convolution is where it stands beside blocks, as the beginning of a stage, but not in a stem.
    """
    many = convolutions(plan, call)
    if pattern(call.path).count("#") < 2:
        return many > 1 and not _taken(call, blocks)
    alone = next(plan.part(call).children(), None) is None
    attends = any(block.span[0] <= call.start and call.end <= block.span[1] for block in blocks)
    held = any(call.start <= block.span[0] and block.span[1] <= call.end for block in blocks)
    return attends or held or (many > 0 and (not alone or list_of(call.path) in lists))


def _stages(call: Call, sum_: Residual | None) -> list[Stage]:
    if call.input is None or call.output is None:
        return []
    ends = sum_ is not None and _only_pointwise(call.output, sum_.total)
    return [Stage(call.input, call.output, call, sum_ if ends else None, goes_on=bool(sum_) and not ends)]


def _class(plan: Plan, call: Call) -> tuple[str, type]:
    return pattern(call.path), type(plan.part(call))


def _is_summed_on(value: Value | None, origin: Value) -> bool:
    """Whether another sum follows before a value that is pointwise but for that."""
    while value is not None and value is not origin and (op := value.made_by) and op.image_inputs:
        if op.name == "add" and len(op.image_inputs) > 1:
            return True
        value = op.image_inputs[0]
    return False


def _without_downsampling(stages: Sequence[Stage], *, alone: bool) -> list[Stage]:
    """Blocks without modules that shrink the map wherever they stand, unless there is nothing else."""
    keeping = {pattern(stage.call.path) for stage in stages if cells(stage.out) == cells(stage.entry)}
    if alone and not keeping:
        return [*stages]
    return [stage for stage in stages if pattern(stage.call.path) in keeping]


def _owner(plan: Plan, sum_: Residual) -> Call | None:
    """The innermost module that makes the whole branch and adds it, if it goes from maps to maps."""
    convolutions = [op for op in sum_.ops if op.name in ("conv2d", "linear") and _on_grid(op)]
    linear = len(convolutions) == 1 and not any(op.name in ACTIVATIONS for op in sum_.ops)
    if not convolutions or linear:  # one linear map and its stream: a position encoding, or a joint of a tree
        return None
    holders = [
        call for call in plan.trace.calls if call.holds(convolutions[0].time) and call.holds(sum_.op.time)
    ]
    owner = min(holders, key=lambda call: call.end - call.start)
    ends = owner.output is not None and _only_pointwise(owner.output, sum_.total)
    return owner if owner.path and on_maps(owner) and ends else None


def _only_pointwise(value: Value, origin: Value) -> bool:
    """Whether all that happens to a sum before its module hands it out is pointwise."""
    while value is not origin:
        op = value.made_by
        if op is None or not op.inputs or (op.name not in POINTWISE and root(value) is value):
            return False
        value = op.image_inputs[0] if op.image_inputs else op.inputs[0]
    return True


def _taken(call: Call, blocks: Sequence[Block]) -> bool:
    return any(_overlap(call, block.span) for block in blocks)


def _overlap(call: Call, span: Span) -> bool:
    return call.start < span[1] and span[0] < call.end


def _on_grid(op: Op) -> bool:
    return (op.inputs[0].layout is not None and cells(op.inputs[0]) > 1) or op.inputs[0].shape[2:] == (1, 1)


def on_maps(call: Call) -> bool:
    """Whether a module goes from feature map to feature map."""
    return call.input is not None and call.output is not None and is_map(call.input) and is_map(call.output)


def is_map(value: Value) -> bool:
    """Whether it is a feature map, channels first or last."""
    layout = value.layout
    if layout is None or len(value.shape) != 4 or layout.keys:
        return False
    return layout_of_map(layout) or layout_of_map(layout.move(lambda numbers: numbers.movedim(-1, 1)))


def cells(value: Value) -> int:
    """How many places of the image a value has; 0 where that is not known."""
    return value.layout.cells if value.layout else 0


def convolutions(plan: Plan, call: Call) -> int:
    """How many convolutions run during a call."""
    return sum(op.name == "conv2d" for op in plan.trace.during(call))


def inside(call: Call, other: Call) -> bool:
    """Whether one call was made during another."""
    return other.start < call.start and call.end < other.end
