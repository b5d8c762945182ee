"""The blocks of a traced pass, told by its residual sums and by the modules that these stand in.

Most blocks are two sums: one after places are mixed, by attention or otherwise, and one after an MLP. Some
have one sum for all they do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vitscope.models.attention import cores
from vitscope.models.claims import Plan
from vitscope.models.layout_rules import ALIASES, POINTWISE
from vitscope.models.listed import around, is_item, is_of_parts, item_around, list_of
from vitscope.models.streams import Residual, is_additive, is_pointwise, root, smallest_holder
from vitscope.trace import Call, Op, Value, past, reaches

NEAR = 8
"""How many sums back the first half of a block may be; models that run three scales in turn need three."""
ACTIVATIONS = (
    *("gelu", "relu", "relu6", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "prelu", "hardswish"),
    *("hardtanh", "tanh"),
)
"""Functions after which a unit is still the same unit, so that it has a value before them."""

Span = tuple[int, int]
"""A beginning and an end on the clock of a pass."""


@dataclass(frozen=True, eq=False)
class Block:
    """One block.

    Attributes:
        mixing: the sum after places are mixed.
        mlp: the sum after the MLP; None where the block has one branch for all it does.
        holder: the module that holds both.
        rest: the sum that leaves the block, where more branches follow on the MLP's.
    """

    mixing: Residual
    mlp: Residual | None
    holder: Call
    rest: Residual | None = None

    @property
    def last(self) -> Residual:
        """The sum that leaves the block."""
        return self.rest or self.mlp or self.mixing

    @property
    def attends(self) -> bool:
        """Whether attention mixes places."""
        return self.mixing.kind == "attention" and self.mixing.attends

    @property
    def branch(self) -> str:
        """What the first branch is called: "attn" if it is attention and no MLP beside it, else "mix"."""
        return "mix" if not self.attends or (self.mlp is None and beside_attention(self.mixing)) else "attn"

    @property
    def span(self) -> Span:
        """From when to when on the clock of the pass it runs: two modules of a list may be one block."""
        one, other = (_child(sum_.op, self.holder) for sum_ in (self.mixing, self.last))
        if one is not other and is_item(one.path) and is_item(other.path):
            return one.start, other.end
        return self.holder.start, self.holder.end

    @property
    def entry(self) -> Value:
        """What enters the block: what its module takes in, or where no module is one block, the stream."""
        given = self.holder.input
        whole = given is not None and self.holder.path and reaches(self.mixing.base, given)
        return given if whole and given is not None else self.mixing.base

    @property
    def out(self) -> Value:
        """What leaves the block: the last sum, in the shape its module hands it out."""
        made, total = self.holder.output, self.last.total
        return made if made is not None and root(made) is total else total


def find_blocks(plan: Plan, sums: Sequence[Residual]) -> list[Block]:
    """The blocks among the residual sums of a pass, in order.

    A sum that mixes places goes with the next sum of an MLP on the same stream. Without attention one module
    must add up both and nothing else, or any two convolutional blocks in a row would do. What finds no MLP
    may be a block of one branch.
    """
    pairs: list[Block] = []
    waiting: list[Residual] = []
    for sum_ in sums:
        options = waiting[:-NEAR:-1] if sum_.kind == "mlp" else []
        block = next((made for first in options if (made := _pair(plan, first, sum_, sums))), None)
        if block:
            pairs.append(block)
            waiting.remove(block.mixing)
        elif sum_.kind == "attention" or _mixes(sum_):
            waiting.append(sum_)
    blocks = [_whole(plan, block, sums) for block in pairs]
    blocks += _single(sums, blocks)
    return sorted(blocks, key=lambda block: block.mixing.op.time)


def _pair(plan: Plan, first: Residual, second: Residual, sums: Sequence[Residual]) -> Block | None:
    one, other = first.total.layout, second.total.layout
    if one is None or other is None or one.grid != other.grid or not _follows(first, second):
        return None
    holder = smallest_holder(plan.trace, [first.op.time, second.op.time])
    parts = _child(first.op, holder), _child(second.op, holder)
    if any(is_item(part.path) for part in parts) and not _take_turns(plan, *parts, sums):
        return None
    own = parts == (holder, holder)
    named = is_item(holder.path) and not any(is_item(part.path) for part in parts)
    within = {*first.ops, *second.ops}  # sums inside a branch are its own affair
    alone = [sum_ for sum_ in sums if holder.holds(sum_.op.time) and sum_.op not in within] == [first, second]
    # attention beside a shortcut that shrinks the stream begins a block only in a module of that block
    attends = first.kind == "attention" and (own or alone or not first.shortcut)
    return Block(first, second, holder) if ((own or named) and alone) or attends else None


def _take_turns(plan: Plan, one: Call, other: Call, sums: Sequence[Residual]) -> bool:
    """Whether in their list every module like the second comes after one with attention."""
    if one is other or list_of(one.path) != list_of(other.path):
        return True
    calls = [call for call in plan.trace.calls if call.parent is other.parent and is_item(call.path)]
    attend = {call for call in calls if any(call.holds(x.op.time) and x.kind == "attention" for x in sums)}
    alike = [type(plan.part(call)) is type(plan.part(other)) and call not in attend for call in calls]
    return all(before in attend for before, like in zip([None, *calls], alike, strict=False) if like)


def _follows(first: Residual, second: Residual) -> bool:
    """Whether the second sum is on the stream that the first left, with no map of its units in between."""
    between = [
        op
        for op in past(second.base, first.total)
        if any(reaches(given, first.total) for given in op.inputs[:1])
    ]
    return reaches(second.base, first.total) and not any(is_pointwise(op) for op in between)


def _mixes(sum_: Residual) -> bool:
    """Whether a branch without attention mixes places: a convolution, pooling, or what no rule knows."""
    return any(not is_pointwise(op) and op.name not in (*POINTWISE, *ALIASES) for op in sum_.ops)


def _whole(plan: Plan, block: Block, sums: Sequence[Residual]) -> Block:
    """The block with all that comes after its MLP in the listed module that it is, or is a part of."""
    for outer in _modules_of(plan, block):
        inside = [sum_ for sum_ in sums if outer.holds(sum_.op.time)]
        last, made = inside[-1], outer.output
        if [sum_ for sum_ in inside if sum_.kind == "attention"] != [block.mixing]:
            break
        if made is not None and root(made) is last.total is not block.last.total:
            block = Block(block.mixing, block.mlp, outer, rest=last)
    return block


def _modules_of(plan: Plan, block: Block) -> Iterator[Call]:
    """The listed modules that a block is or is a part of, from the inside: lists of blocks end them."""
    call = block.holder
    if not is_item(call.path) and is_item(_child(block.mixing.op, call).path):
        return
    outer = call if is_item(call.path) else item_around(call)
    while outer is not None:
        yield outer
        outer = item_around(outer) if is_of_parts(plan, list_of(outer.path)) else None


def _single(sums: Sequence[Residual], pairs: Sequence[Block]) -> list[Block]:
    """Listed modules whose one sum is all they do: attention, or tokens that are mixed in another way."""
    found = []
    for sum_ in sums:
        holder = next((call for call in calls_of(sum_.op) if is_item(call.path)), None)
        if holder is None or not _is_all(sum_, holder, sums) or not _is_on_places(sum_):
            continue
        apart = not any(start < holder.end and holder.start < end for start, end in (b.span for b in pairs))
        if apart and (_attends_to_stream(sum_) or (len(sum_.total.shape) == 3 and _mixes(sum_))):
            found.append(Block(sum_, None, holder))
    return found


def _is_all(sum_: Residual, holder: Call, sums: Sequence[Residual]) -> bool:
    """Whether a module takes in the base of a sum, hands out the sum, and adds up nothing else."""
    inside = [
        other
        for other in sums
        if holder.holds(other.op.time) and not (other.shortcut and other.op in sum_.ops)  # beside, not after
    ]
    alike = holder.input is not None and root(holder.input) is root(sum_.base)
    return alike and inside == [sum_] and holder.output is not None and root(holder.output) is sum_.total


def _is_on_places(sum_: Residual) -> bool:
    """Whether it is a sum of places of the image, on one grid."""
    layout = sum_.total.layout
    return layout is not None and layout.keys is None and layout.has_cells


def _attends_to_stream(sum_: Residual) -> bool:
    """Whether a branch is attention whose queries are projected from the stream itself, by one map."""
    found = cores(sum_.ops) if sum_.kind == "attention" and sum_.attends else []
    if len(found) != 1:
        return False
    before = [op for op in sum_.ops if is_pointwise(op) and reaches(found[0].query, op.output)]
    return len(before) == 1


def beside_attention(sum_: Residual) -> list[Op]:
    """The activation functions in a branch that lie neither before nor after its attention."""
    contexts = [core.op for core in cores(sum_.ops)]
    return [
        op
        for op in sum_.ops
        if op.name in ACTIVATIONS
        and not any(
            reaches(op.output, core.output) or any(reaches(given, op.output) for given in core.inputs)
            for core in contexts
        )
    ]


def last_map(block: Block) -> Op | None:
    """The map that makes the branch of an MLP out of its hidden layer; None if there is no one such map.

    Of a block of one branch: the map that reads what is activated beside the attention.
    """
    if block.mlp or not block.attends:
        hidden = (block.mlp or block.mixing).hidden
        return hidden[1] if hidden else None
    hidden_units = [root(op.output) for op in beside_attention(block.mixing)]
    found = [op for op in block.mixing.maps if root(op.inputs[0]) in hidden_units]
    return found[0] if len(found) == 1 else None


def why_left_out(sums: Sequence[Residual]) -> list[str]:
    """Why the attention among these sums, which are in no block, is in none."""
    left = [sum_ for sum_ in sums if sum_.kind == "attention"]
    known = all(sum_.total.layout is not None for sum_ in left)
    why = "no MLP follows on the same stream" if known else "it is not certain which token lies where in it"
    return [f"no blocks.i for the attention in {_where(left)}: {why}"] if left else []


def why_unseen(sums: Sequence[Residual]) -> list[str]:
    """That branches without any attention that a rule knows have a softmax all the same."""
    odd = [sum_ for sum_ in sums if sum_.kind != "attention" and any(op.name == "softmax" for op in sum_.ops)]
    why = "no rule knows how it is written"
    return [f"no attention sites for the softmax in {_where(odd)}: {why}"] if odd else []


def why_no_pattern(sums: Sequence[Residual]) -> list[str]:
    """Why additive attention, which mixes places, has no sites of attention."""
    found = [sum_ for sum_ in sums if is_additive(sum_.ops)]
    why = (
        "every place is weighed once, for a summary of all that multiplies each place, so there is no "
        "pattern of weights from place to place"
    )
    return [f"no attention sites for the additive attention in {_where(found)}: {why}"] if found else []


def _where(sums: Sequence[Residual]) -> str:
    """The modules that add these sums up, those that are numbered alike as one."""
    found = dict.fromkeys(re.sub(r"\d+", "*", sum_.op.within.path) or "the model itself" for sum_ in sums)
    return ", ".join(found)


def _child(op: Op, holder: Call) -> Call:
    """The call right inside another that a function was called in; that other itself if there is none."""
    return next((call for call in calls_of(op) if call.parent is holder), holder)


def calls_of(op: Op) -> Iterator[Call]:
    """The module calls that a function was called in, the innermost first."""
    yield op.within
    yield from around(op.within)
