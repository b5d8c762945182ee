"""Semantic sites of blocks: attention or another mixing of places, then an MLP, on a residual stream.

They are read off a traced pass: the sums of stream and branch (`streams`), the way attention is written
(`attention`), and where the elements of each tensor lie (`layout`). Then all is measured: branches must add
up to the stream, weights times values must give the context vectors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vitscope.models.arrange import arranged
from vitscope.models.attention_sites import attention_claims
from vitscope.models.claims import Claim, Plan, adds_up
from vitscope.models.layout_rules import ALIASES, NORMS, POINTWISE
from vitscope.models.streams import Residual, is_pointwise, root, smallest_holder
from vitscope.models.vision_model import Site
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
    """One block: the sum after places are mixed, the sum after the MLP, and the module that holds both."""

    mixing: Residual
    mlp: Residual
    holder: Call

    @property
    def branch(self) -> str:
        """What the first branch is called: "attn" if it is attention, else "mix"."""
        return "attn" if self.mixing.kind == "attention" and self.mixing.attends else "mix"

    @property
    def span(self) -> Span:
        """From when to when on the clock of the pass it runs: two modules of a list may be one block."""
        one, other = (_child(sum_.op, self.holder) for sum_ in (self.mixing, self.mlp))
        listed = all(call.path.rpartition(".")[2].isdigit() for call in (one, other))
        if one is not other and listed and self.holder not in (one, other):
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
        made = self.holder.output
        return made if made is not None and root(made) is self.mlp.total else self.mlp.total


def find_blocks(plan: Plan, sums: Sequence[Residual]) -> list[Block]:
    """The blocks among the residual sums of a pass, in order.

    A sum that mixes places goes with the next sum of an MLP on the same stream. Without attention one module
    must add up both and nothing else, or any two convolutional blocks in a row would do.
    """
    blocks: list[Block] = []
    waiting: list[Residual] = []
    for sum_ in sums:
        options = waiting[:-NEAR:-1] if sum_.kind == "mlp" else []
        block = next((made for first in options if (made := _block(plan, first, sum_, sums))), None)
        if block:
            blocks.append(block)
            waiting.remove(block.mixing)
        elif sum_.kind == "attention" or _mixes(sum_):
            waiting.append(sum_)
    return sorted(blocks, key=lambda block: block.mixing.op.time)


def _block(plan: Plan, first: Residual, second: Residual, sums: Sequence[Residual]) -> Block | None:
    one, other = first.total.layout, second.total.layout
    if one is None or other is None or one.grid != other.grid or not _follows(first, second):
        return None
    holder = smallest_holder(plan.trace, [first.op.time, second.op.time])
    own = first.op.within is second.op.within is holder
    within = {*first.ops, *second.ops}  # sums inside a branch are its own affair
    alone = [sum_ for sum_ in sums if holder.holds(sum_.op.time) and sum_.op not in within] == [first, second]
    # attention beside a shortcut that shrinks the stream begins a block only in a module of that block
    attends = first.kind == "attention" and (own or alone or not first.shortcut)
    return Block(first, second, holder) if (own and alone) or attends else None


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


def why_left_out(sums: Sequence[Residual]) -> str:
    """Why the attention among these sums, which are in no block, is in none; "" if there is no such."""
    left = [sum_ for sum_ in sums if sum_.kind == "attention"]
    known = all(sum_.total.layout is not None for sum_ in left)
    why = "no MLP follows on the same stream" if known else "it is not certain which token lies where in it"
    return f"no blocks.i for the attention in {_where(left)}: {why}" if left else ""


def why_unseen(sums: Sequence[Residual]) -> str:
    """That branches without any attention that a rule knows have a softmax all the same; "" if none has."""
    odd = [sum_ for sum_ in sums if sum_.kind != "attention" and any(op.name == "softmax" for op in sum_.ops)]
    return (
        f"no attention sites for the softmax in {_where(odd)}: no rule knows how it is written" if odd else ""
    )


def _where(sums: Sequence[Residual]) -> str:
    """The modules that add these sums up, those that are numbered alike as one."""
    found = dict.fromkeys(re.sub(r"\d+", "*", sum_.op.within.path) or "the model itself" for sum_ in sums)
    return ", ".join(found)


def add_transformer_sites(plan: Plan, blocks: Sequence[Block], before: Value) -> None:
    """Add the sites of blocks to a plan; `before` is what `embed` reads."""
    claims = []
    for index, block in enumerate(blocks):
        claims += _claims(plan, block, f"blocks.{index}", before)
        before = block.out
    plan.settle(claims)
    if blocks:
        _add_norm(plan, blocks[-1])


def _claims(plan: Plan, block: Block, name: str, before: Value) -> list[Claim]:
    """The sites of one block; those of the branches and of attention depend on whether they check out."""
    mixing, branch = block.mixing, f"{name}.{block.branch}"
    out, mid = _within(plan, block, name, block.out), _within(plan, block, f"{name}.mid", mixing.total)
    plan.add(out, _ffn(plan, block, f"{name}.ffn"), *_norms(plan, block, name))
    return [
        *_sum(plan, mixing, branch, mid, before, block),
        *_sum(plan, block.mlp, f"{name}.mlp", out, mixing.total, block),
        *(attention_claims(plan, mixing, branch) if block.branch == "attn" else []),
    ]


def _within(plan: Plan, block: Block, name: str, value: Value) -> Site | None:
    return plan.site(name, value, within=block.holder)


def _sum(
    plan: Plan, sum_: Residual, name: str, total: Site | None, before: Value, block: Block
) -> list[Claim]:
    """The branch, what it is added to where that is not what came before, and the sum of both."""
    base = plan.site(f"{name}.base", sum_.base, within=block.holder, layout=sum_.total.layout)
    branch = plan.site(name, sum_.branch, within=block.holder, layout=sum_.total.layout)
    if base is None or branch is None or total is None:
        plan.notes.append(f"no {name}: it is not certain which token lies where in it")
        return []
    moved = root(sum_.base) is not root(before)
    mid = total.name.endswith(".mid")
    offers = (branch, *([base] if moved else []), *([total] if mid else []))
    return [Claim((base, branch, total), adds_up, offers, f"no {name}: its sum does not add up")]


def _ffn(plan: Plan, block: Block, name: str) -> Site | None:
    """What enters the last linear map of the MLP; `before` is the same before its activation function."""
    site = ffn_site(plan, block.mlp, name, within=block.holder)
    if site is None:
        plan.notes.append(f"no {name}: it is not certain which token lies where in it")
    return site


def ffn_site(plan: Plan, mlp: Residual, name: str, *, within: Call) -> Site | None:
    """What enters the last map of the MLP in this branch; None where its places are not known."""
    if mlp.hidden is None:
        return None
    last = mlp.hidden[1]
    given = last.inputs[0]
    calls = [call for call in plan.readers(given) if call.holds(last.time)]
    site = plan.entering(name, calls[-1]) if calls else plan.site(name, given, within=within)
    return replace(site, before=_before_activation(plan, given)) if site else None


def _before_activation(plan: Plan, value: Value) -> str | None:
    """The raw site with the same units before their activation function, where that is all there is."""
    op = root(value).made_by
    if op is None or op.name not in ACTIVATIONS or len(op.image_inputs) != 1:
        return None
    given = op.image_inputs[0]
    found, own = arranged(given.layout), arranged(value.layout)
    alike = found and own and (found.grid, found.units, found.axes) == (own.grid, own.units, own.axes)
    return (plan.written_as(given) or plan.written_as(root(given))) if alike else None


def _norms(plan: Plan, block: Block, name: str) -> Iterator[Site | None]:
    """`norm1` and `norm2`: the norms that read the stream before the branch does anything else."""
    for label, sum_ in (("norm1", block.mixing), ("norm2", block.mlp)):
        calls = [call for op in sum_.ops for call in _around(op) if _reads(call, sum_.base)]
        norm = next((call for call in calls if _is_norm(plan, call)), None)
        if norm is not None and norm.output is not None:
            yield _within(plan, block, f"{name}.{label}", norm.output)


def _around(op: Op) -> Iterator[Call]:
    """The module calls that a function was called in, the innermost first."""
    call: Call | None = op.within
    while call is not None:
        yield call
        call = call.parent


def _child(op: Op, holder: Call) -> Call:
    """The call right inside another that a function was called in; that other itself if there is none."""
    return next((call for call in _around(op) if call.parent is holder), holder)


def _reads(call: Call, stream: Value) -> bool:
    return call.input is not None and root(call.input) is root(stream)


def _is_norm(plan: Plan, call: Call) -> bool:
    """Whether a module is a norm: its weights, if any, are vectors, and all it computes is normalised."""
    weights = list(plan.part(call).parameters())
    inside = [op.name for op in plan.trace.ops if call.holds(op.time)]
    norms = bool({*inside} & {*NORMS, "rsqrt"})
    return call.shape_in == call.shape_out and norms and all(weight.ndim == 1 for weight in weights)


def _add_norm(plan: Plan, last: Block) -> None:
    """The final norm: the first module with weights after the last block, if it is a norm of all places."""
    for call in plan.trace.calls:
        if call.start > last.holder.end and next(plan.part(call).parameters(), None) is not None:
            if call.shape_in == last.out.shape and _is_norm(plan, call) and call.output is not None:
                plan.add(plan.site("norm", call.output))
            return
