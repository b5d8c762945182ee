"""Semantic sites of convolutional networks: the blocks of every stage, found by structure.

A block is the module of a residual sum on feature maps; modules at the same level of the tree are blocks too,
whether or not they have a shortcut. Without any such sum, blocks are modules whose output is joined to their
input (dense layers), or modules with one spatial convolution each, with what follows them (plain stacks).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from vitscope.models.claims import Claim, Plan, adds_up
from vitscope.models.layout import is_map
from vitscope.models.layout_rules import POINTWISE, RESAMPLINGS
from vitscope.models.streams import Residual, root
from vitscope.models.transformer_sites import ACTIVATIONS, Span, ffn_site
from vitscope.trace import Call, Op, Value, reaches


@dataclass(frozen=True, eq=False)
class Stage:
    """One block of a stage: what enters and leaves it, and its residual sum if it has one."""

    entry: Value
    out: Value
    call: Call
    sum: Residual | None = None

    @property
    def parent(self) -> str:
        """The path of the module that lists this block, or the one that it is a named part of."""
        parts = self.call.path.split(".")
        while len(parts) > 1 and not any(map(str.isdigit, parts[-1])):
            parts.pop()
        return ".".join(parts[:-1])


def find_stages(plan: Plan, sums: Sequence[Residual], taken: Sequence[Span]) -> list[Stage]:
    """The blocks on feature maps, in order; what runs while others do, during `taken`, is left out."""
    found = _residual(plan, sums, taken)
    if not sums:
        found = _dense(plan) or _plain(plan)
    sizes = [_cells(stage.out) for stage in found]
    if sizes != sorted(sizes, reverse=True):
        plan.notes.append("no stages.s.b: feature maps of several sizes run side by side")
        return []
    if not found and not taken:
        seen = "residual sums of modules that convolve a feature map" if sums else "residual sums"
        plan.notes.append(f"no stages.s.b: no {seen}, dense layers or plain stack of convolutions")
    return found


def add_residual_sites(plan: Plan, stages: Sequence[Stage]) -> None:
    """Add `stages.s.b`, and `.branch` and `.ffn` where a block has them."""
    claims, layered, tangled = [], [], []
    for name, stage in _numbered(stages):
        plan.add(plan.site(name, stage.out, within=stage.call if stage.out is stage.call.output else None))
        if stage.sum and stage.sum.tangled:
            tangled.append(name)
        elif stage.sum:
            claims += _claims(plan, stage, stage.sum, name)
            if stage.sum.kind == "mlp" and stage.sum.has_one_hidden_layer:
                plan.add(ffn_site(plan, stage.sum, f"{name}.ffn", within=stage.call))
            elif stage.sum.kind == "mlp":
                layered.append(name)
    if tangled:
        plan.notes.append(
            f"no branch in {', '.join(tangled)}: several maps and any shortcut are one sum there"
        )
    if layered:
        plan.notes.append(f"no ffn in {', '.join(layered)}: not one hidden layer leads to the last map there")
    plan.settle(claims)


def _numbered(stages: Sequence[Stage]) -> Iterator[tuple[str, Stage]]:
    """A stage is a run of blocks that are listed together and hand out maps of one size."""
    stage, index, last = -1, 0, None
    for block, here in zip(stages, _listings(stages), strict=True):
        stage, index = (stage, index + 1) if here == last else (stage + 1, 0)
        last = here
        yield f"stages.{stage}.{index}", block


def _listings(stages: Sequence[Stage]) -> list[tuple[str, object]]:
    """What blocks of one stage share: the module below which paths first part, and the size of the maps.

    Where all blocks stand in one list: that list, and the shape of the maps.
    """
    paths = [stage.call.path.split(".") for stage in stages]
    shared = next((depth for depth, names in enumerate(zip(*paths, strict=False)) if len(set(names)) > 1), 0)
    lists = [".".join(path[: shared + 1]) for path in paths]
    if len(set(lists)) == len(lists):
        return [(".".join(path[:shared]), stage.out.shape) for path, stage in zip(paths, stages, strict=True)]
    return [(name, _cells(stage.out)) for name, stage in zip(lists, stages, strict=True)]


def _claims(plan: Plan, stage: Stage, sum_: Residual, name: str) -> list[Claim]:
    base = plan.site(f"{name}.base", sum_.base, within=stage.call)
    branch = plan.site(f"{name}.branch", sum_.branch, within=stage.call, layout=sum_.total.layout)
    total = plan.site(f"{name}.sum", sum_.total, within=stage.call)
    if base is None or branch is None or total is None:
        return []
    return [Claim((base, branch, total), adds_up, (branch,), f"no {name}.branch: its sum does not add up")]


def _residual(plan: Plan, sums: Sequence[Residual], taken: Sequence[Span]) -> list[Stage]:
    """The outermost modules of residual sums with convolutions, and those at their level of the tree."""
    owners: dict[Call, Residual] = {}
    for sum_ in sums:
        owner = _owner(plan, sum_)
        if owner and not any(_overlap(owner, span) for span in taken):
            before = owners.get(owner)  # summed in one module, but not one after the other
            beside = before is not None and not reaches(sum_.branch, before.total)
            parts = beside or _is_summed_on(owner.output, sum_.total)
            owners[owner] = replace(sum_, tangled=True) if parts else sum_
    alike = {_class(plan, call) for call in owners}  # one of them may have a shortcut that is not understood
    peers = [call for call in plan.trace.calls if _class(plan, call) in alike and _on_maps(call)]
    outer = {call: sum_ for call, sum_ in owners.items() if not any(_inside(call, other) for other in peers)}
    level = {_pattern(call.path) for call in outer}
    calls = [
        call
        for call in plan.trace.calls
        if call in outer
        or (
            _pattern(call.path) in level
            and _on_maps(call)
            and _convolutions(plan, call) > 1
            and not any(_overlap(call, (other.start, other.end)) for other in outer)
        )
    ]
    found = [
        Stage(call.input, call.output, call, outer.get(call))
        for call in calls
        if call.input and call.output and not any(_overlap(call, span) for span in taken)
    ]
    return _without_downsampling(found, alone=not taken)


def _class(plan: Plan, call: Call) -> tuple[str, type]:
    return _pattern(call.path), type(plan.part(call))


def _is_summed_on(value: Value | None, origin: Value) -> bool:
    """Whether another sum follows before a value that is pointwise but for that."""
    while value is not None and value is not origin and (op := value.made_by) and op.image_inputs:
        if op.name == "add" and len(op.image_inputs) > 1:
            return True
        value = op.image_inputs[0]
    return False


def _without_downsampling(stages: Sequence[Stage], *, alone: bool) -> list[Stage]:
    """Blocks without modules that shrink the map wherever they stand, unless there is nothing else."""
    keeping = {_pattern(stage.call.path) for stage in stages if _cells(stage.out) == _cells(stage.entry)}
    if alone and not keeping:
        return [*stages]
    return [stage for stage in stages if _pattern(stage.call.path) in keeping]


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
    return owner if owner.path and _on_maps(owner) and ends else None


def _only_pointwise(value: Value, origin: Value) -> bool:
    """Whether all that happens to a sum before its module hands it out is pointwise."""
    while value is not origin:
        op = value.made_by
        if op is None or not op.inputs or (op.name not in POINTWISE and root(value) is value):
            return False
        value = op.image_inputs[0] if op.image_inputs else op.inputs[0]
    return True


def _dense(plan: Plan) -> list[Stage]:
    """The outermost modules with convolutions whose output is later joined to what they took in."""
    joins = [op for op in plan.trace.ops if op.name == "cat" and len(op.image_inputs) > 1]
    found: list[Call] = []
    for call in plan.trace.calls:
        given, made = call.input, call.output
        if given and made and _is_map(given) and _is_map(made) and _convolves(plan, call, 2):
            with_input = [
                op for op in joins if made in op.inputs and any(_older(x, given) for x in op.inputs)
            ]
            if with_input and not any(_inside(call, other) for other in found):
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


def _plain(plan: Plan) -> list[Stage]:
    """Modules with one convolution over several places each, and what follows them; before them, a stem."""
    convolutions = [op for op in plan.trace.ops if _is_spatial(op)]
    joins = any(op.name in ("cat", "add") and len(op.image_inputs) > 1 for op in plan.trace.ops)
    if joins or not all(reaches(b.inputs[0], a.output) for a, b in pairwise(convolutions)):
        return []  # side by side: no plain stack
    calls = [call for call in plan.trace.calls if call.path and _on_maps(call)]
    calls = [call for call in calls if sum(call.holds(op.time) for op in convolutions) == 1]
    many = Counter(_pattern(call.path) for call in calls)
    level = max(many, key=lambda path: (many[path], -path.count(".")), default="")
    blocks = [call for call in calls if _pattern(call.path) == level]
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
    if op.name != "conv2d" or not _is_map(op.output) or op.within.output is not op.output:
        return False
    return op.inputs[1].shape[-1] > 1 and op.inputs[1].shape[2:] != op.inputs[0].shape[2:]


def _with_what_follows(plan: Plan, value: Value) -> Value:
    users = [op for op in plan.trace.ops if value in op.inputs]
    only = users[0] if len(users) == 1 else None
    if only and only.name in POINTWISE and len(only.image_inputs) == 1 and only.output.layout is not None:
        return _with_what_follows(plan, only.output)
    return value


def _convolutions(plan: Plan, call: Call) -> int:
    return sum(op.name == "conv2d" and call.holds(op.time) for op in plan.trace.ops)


def _convolves(plan: Plan, call: Call, count: int) -> bool:
    return _convolutions(plan, call) >= count and not any(
        op.name in RESAMPLINGS and call.holds(op.time) for op in plan.trace.ops
    )


def _on_grid(op: Op) -> bool:
    return (op.inputs[0].layout is not None and _cells(op.inputs[0]) > 1) or op.inputs[0].shape[2:] == (1, 1)


def _on_maps(call: Call) -> bool:
    return call.input is not None and call.output is not None and _is_map(call.input) and _is_map(call.output)


def _is_map(value: Value) -> bool:
    """Whether it is a feature map, channels first or last."""
    layout = value.layout
    if layout is None or len(value.shape) != 4 or layout.keys:
        return False
    return is_map(layout) or is_map(layout.move(lambda numbers: numbers.movedim(-1, 1)))


def _parent(call: Call) -> str:
    return call.path.rpartition(".")[0]


def _inside(call: Call, other: Call) -> bool:
    return other.start < call.start and call.end < other.end


def _overlap(call: Call, span: Span) -> bool:
    return call.start < span[1] and span[0] < call.end


def _pattern(path: str) -> str:
    return re.sub(r"\d+", "#", path)


def _cells(value: Value) -> int:
    return value.layout.grid[0] * value.layout.grid[1] if value.layout else 0
