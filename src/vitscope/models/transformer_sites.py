"""Semantic sites of blocks: attention or another mixing of places, then an MLP, on a residual stream.

They are read off a traced pass: the sums of stream and branch (`streams`), the way attention is written
(`attention`), and where the elements of each tensor lie (`layout`). Then all is measured: branches must add
up to the stream, weights times values must give the context vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vitscope.models.arrange import arranged
from vitscope.models.attention_sites import attention_claims
from vitscope.models.blocks import ACTIVATIONS, Block, calls_of, last_map
from vitscope.models.claims import Claim, Plan, adds_up
from vitscope.models.layout_rules import NORMS
from vitscope.models.streams import Residual, root
from vitscope.models.vision_model import Site
from vitscope.trace import Call, Op, Value


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
    plan.add(*_norms(plan, block, name))
    inside = attention_claims(plan, block.mixing, f"{name}.attn") if block.attends else []
    out = _within(plan, block, name, block.out)
    plan.add(out)
    if block.mlp is None:
        return [*_one_branch(plan, block, name, out, before), *inside]
    mid = _within(plan, block, f"{name}.mid", block.mixing.total)
    plan.add(_ffn(plan, block.mlp, f"{name}.ffn", within=block.holder))
    first = _sum(plan, block.mixing, f"{name}.{block.branch}", mid, before, block)
    if block.rest:
        plan.notes.append(f"no {name}.mlp: another branch is added after the MLP's, before the block ends")
        return [*first, *inside]
    return [*first, *_sum(plan, block.mlp, f"{name}.mlp", out, block.mixing.total, block), *inside]


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


def _one_branch(plan: Plan, block: Block, name: str, out: Site | None, before: Value) -> list[Claim]:
    """A block that adds one branch to the stream: the block is its base plus that."""
    last = last_map(block)
    ffn = _read_by(plan, last, f"{name}.ffn", within=block.holder) if last else None
    plan.add(ffn)
    lacking = ", ".join([".mid", ".mlp", *([] if ffn else [".ffn"])])
    held = " that holds attention and an MLP" if block.attends and block.branch == "mix" else ""
    plan.notes.append(
        f"no {name}.{lacking[1:]}: the block has one branch{held}, it is its base plus .{block.branch}"
    )
    return _sum(plan, block.mixing, f"{name}.{block.branch}", out, before, block)


def _ffn(plan: Plan, mlp: Residual, name: str, *, within: Call) -> Site | None:
    """What enters the last linear map of the MLP; noted where there is no such."""
    site = ffn_site(plan, mlp, name, within=within)
    if site is None and mlp.hidden is None:
        plan.notes.append(f"no {name}: several MLPs side by side are one branch")
    elif site is None:
        plan.notes.append(f"no {name}: it is not certain which token lies where in it")
    return site


def ffn_site(plan: Plan, mlp: Residual, name: str, *, within: Call) -> Site | None:
    """What enters the last map of the MLP in this branch; None where its places are not known."""
    return _read_by(plan, mlp.hidden[1], name, within=within) if mlp.hidden else None


def _read_by(plan: Plan, last: Op, name: str, *, within: Call) -> Site | None:
    """What enters a map; `before` is the same before its activation function."""
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
    """`norm1` and `norm2`: the one norm that reads the stream before the branch does anything else."""
    halves = [("norm1", block.mixing), *([("norm2", block.mlp)] if block.mlp else [])]
    for label, sum_ in halves:
        calls = [call for op in sum_.ops for call in calls_of(op) if _reads(call, sum_.base)]
        norms = [call.output for call in calls if call.output is not None and _is_norm(plan, call)]
        if len({root(made) for made in norms}) == 1:
            yield _within(plan, block, f"{name}.{label}", norms[0])


def _reads(call: Call, stream: Value) -> bool:
    return call.input is not None and root(call.input) is root(stream)


def _is_norm(plan: Plan, call: Call) -> bool:
    """Whether a module is a norm: its weights, if any, are vectors, and all it computes is normalised."""
    weights = list(plan.part(call).parameters())
    norms = not {op.name for op in plan.trace.during(call)}.isdisjoint({*NORMS, "rsqrt"})
    return call.shape_in == call.shape_out and norms and all(weight.ndim == 1 for weight in weights)


def _add_norm(plan: Plan, last: Block) -> None:
    """The final norm: the first module with weights after the last block, if it is a norm of all places."""
    for call in plan.trace.calls:
        if call.start > last.holder.end and next(plan.part(call).parameters(), None) is not None:
            if call.shape_in == last.out.shape and _is_norm(plan, call) and call.output is not None:
                plan.add(plan.site("norm", call.output))
            return
