"""Semantic sites inside attention: queries, keys, values as projected, context vectors, and the weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vitscope.models.arrange import Arranged, arranged, arranged_weights
from vitscope.models.attention import Core, MultiHead, cores
from vitscope.models.claims import Claim, Plan, close
from vitscope.models.layout import Layout, pairs
from vitscope.models.streams import Residual, is_pointwise, root
from vitscope.models.vision_model import Keys, Site
from vitscope.trace import Value


def attention_claims(plan: Plan, sum_: Residual, name: str) -> list[Claim]:
    """The sites of the one attention in a branch, added to the plan or claimed."""
    found = cores(sum_.ops)
    if len(found) != 1:
        why = (
            f"there are {len(found)} attentions in the branch" if found else "no rule knows how it is written"
        )
        plan.notes.append(f"no {name}.q, .k, .v, .heads, .pattern: {why}")
        return []
    if found[0].way == "multi-head module":
        return _multi_head(plan, found[0], name)
    return _open(plan, sum_, found[0], name)


def _open(plan: Plan, sum_: Residual, core: Core, name: str) -> list[Claim]:
    """Attention whose projections are maps of their own."""
    letters = {"q": core.query, "k": core.key, "v": core.value}
    sites = {letter: _projected(plan, value, f"{name}.{letter}") for letter, value in letters.items()}
    heads = sites["heads"] = _context(plan, sum_, core, f"{name}.heads")
    lacking = [f"{name}.{part}" for part, site in sites.items() if site is None]
    if lacking:
        plan.notes.append(f"no {', '.join(lacking)}: not certain which unit or place is which")
    pattern = _inside(plan, f"{name}.pattern", core, arranged_weights(core.weights_layout), core.weights)
    used = _inside(plan, f"{name}.v as used", core, arranged(core.used_layout), core.used)
    plan.add(heads)
    rest = tuple(site for part, site in sites.items() if site and part != "heads")
    if pattern is None or pattern.keys is None or heads is None or used is None:
        plan.notes.append(f"no {name}.pattern: {_why_no_pattern(core)}")
        plan.add(*rest)
        return []
    missing = f"no {name}.q, .k, .v: weights times values do not give the context vectors"
    gives = partial(gives_context, count=pattern.keys.count, keys=pattern.keys)
    mixing = Claim((used, pattern, heads), gives, rest, missing)
    claims = [mixing]
    if core.mixes_heads:
        plan.notes.append(f"no {name}.pattern: {_why_no_pattern(core)}")
    else:
        sums = partial(rows_sum_to_one, count=pattern.keys.count)
        uneven = f"no {name}.pattern: not weights whose rows sum to one"
        claims.append(Claim((pattern,), sums, (pattern,), uneven, after=mixing))
    if sites["v"]:
        changed = f"{name}.v is as projected: it is changed before attention averages it"
        claims.append(Claim((sites["v"], used), same_values, (), changed))
    return claims


def _why_no_pattern(core: Core) -> str:
    if core.mixes_heads:
        return "heads are mixed after the softmax, so its rows do not sum to one"
    if core.weights is None:
        return f"{core.way} attention has no weights from place to place"
    return "not certain where it lies"


def _inside(
    plan: Plan, name: str, core: Core, found: Arranged | None, get: Callable[[Any], Tensor] | None
) -> Site | None:
    return plan.inside(name, core.op, found, get=get, recomputed=core.recomputed) if get else None


def _projected(plan: Plan, value: Value, name: str) -> Site | None:
    """The units of the last map that queries, keys or values are made of: as projected, head by head."""
    units = _units(value, dim=_dim(value))
    if units is None or value.layout is None:
        return None
    source = plan.trace.values[value.layout.source]
    if source.made_by is None or source.layout is None:
        return None
    return plan.site(name, source, columns=units)


def _dim(value: Value) -> int:
    """How many units a head has: the last axis along which only the unit changes."""
    layout = value.layout
    axes = [axis for axis, alike in enumerate(layout.lies_alike) if alike] if layout else []
    return value.shape[axes[-1]] if axes else 0


def _units(value: Value, *, dim: int = 0) -> Tensor | None:
    """Which units of their source lie at each place, in order; None if not the same at all places.

    In every `dim` they are put in the order of their source: a rotation may have turned its halves round.
    """
    layout = value.layout
    if layout is None or layout.source < 0:
        return None
    ends = layout.units_at_ends()
    if ends is None:
        return None
    first, last = (rows.view(-1, dim).sort().values.flatten() if dim else rows for rows in ends)
    if not torch.equal(first, last) or len(torch.unique(first)) != len(first):
        return None
    units: Tensor = first[first > 0].long() - 1
    return units


def _context(plan: Plan, sum_: Residual, core: Core, name: str) -> Site | None:
    """The context vectors: what enters the output projection, if nothing lies in between."""
    for op in sum_.ops:
        if op.time > core.op.time and is_pointwise(op) and root(op.inputs[0]) is root(core.context):
            return plan.site(name, op.inputs[0], columns=_by_head(op.inputs[0], core.context))
    return plan.site(name, core.context)


def _by_head(value: Value, context: Value) -> Tensor | None:
    """Where the units of each head lie, head by head, in a projection that reads them in another order."""
    given, wanted = _units(value), _units(context)
    if given is None or wanted is None or torch.equal(given, wanted) or len(given) != len(wanted):
        return None
    place = torch.empty(int(given.max()) + 1, dtype=torch.long)
    place[given] = torch.arange(len(given))
    return place[wanted]


def gives_context(
    value: Float[Tensor, "image key unit"],
    shares: Float[Tensor, "image query pair"],
    context: Float[Tensor, "image query wide"],
    *,
    count: int,
    keys: Keys | None,
) -> bool:
    """Whether weights times values are the context vectors."""
    weights = rearrange(shares, "image query (head key) -> image query head key", key=count)
    groups = value.shape[-1] * weights.shape[2] // context.shape[-1]  # of heads that share their values
    values = rearrange(value, "image key (head dim) -> image key head dim", head=groups)
    values = values.repeat_interleave(weights.shape[2] // groups, dim=2)
    if keys is None or keys.table is None:
        mixed = torch.einsum("iqhk,ikhd->iqhd", weights, values)
    else:
        full = (keys.table >= 0).all(-1)  # queries that see no padding, whose values are not in `value`
        mixed = torch.einsum("iqhk,iqkhd->iqhd", weights[:, full], values[:, keys.table[full]])
        context = context[:, full]
    return close(rearrange(mixed, "image query head dim -> image query (head dim)"), context)


def rows_sum_to_one(shares: Float[Tensor, "image query pair"], *, count: int) -> bool:
    """Whether every query shares out one among its keys."""
    weights = rearrange(shares, "image query (head key) -> image query head key", key=count)
    return close(weights.sum(-1), torch.ones(()))


def same_values(projected: Float[Tensor, "image place unit"], used: Float[Tensor, "image key wide"]) -> bool:
    """Whether values are averaged as they were projected."""
    return projected.shape == used.shape and close(projected, used)


def _multi_head(plan: Plan, core: Core, name: str) -> list[Claim]:
    """Inside `nn.MultiheadAttention` nothing is handed out: all is computed again from what it is given."""
    made = {
        part: plan.inside(f"{name}.{part}", core.op, found, get=MultiHead(part), recomputed=True)
        for part, found in _parts(core).items()
    }
    again, out = made.pop("output", None), plan.site(f"{name} as handed out", core.op.output)
    sites = tuple(site for site in made.values() if site)
    missing = f"no {name}.q, .k, .v, .heads, .pattern: "
    if again is None or out is None or len(sites) < len(made):
        plan.notes.append(missing + "not certain which token lies where")
        return []
    return [Claim((again, out), close, sites, missing + "computed again, they do not give what it returns")]


def _parts(core: Core) -> dict[str, Arranged | None]:
    """How to read each part of `nn.MultiheadAttention`, by its name; none where places are not known."""
    heads = core.op.settings.get(4, core.op.settings.get("num_heads"))
    query = _batch_first(core.op.output.layout)
    if query is None or not isinstance(heads, int):
        return {}
    width = query.shape[-1]
    key, value = (_batch_first(given.layout, width=width) for given in (core.key, core.value))
    if key is None or value is None:
        return {}
    one, other = (
        layout.move(lambda numbers: numbers[:, None].expand(-1, heads, -1, -1)) for layout in (query, key)
    )
    weights = pairs(one, other, source=-1)
    own, seen, mixed = arranged(query), arranged(key), arranged(value)
    parts = {"q": own, "k": seen, "v": mixed, "heads": own, "output": own}
    return {**parts, "pattern": arranged_weights(weights)}


def _batch_first(layout: Layout | None, *, width: int = 0) -> Layout | None:
    """The layout of "token image unit" as "image token unit", of another width if one is given."""
    if layout is None or len(layout.shape) != 3:
        return None
    turned = layout.move(lambda numbers: numbers.movedim(1, 0))
    return turned.with_units(width, source=layout.source) if width else turned
