"""Semantic sites of transformers: blocks, branches, attention and hidden layers, found by structure.

A table of rules says how attention and MLP may be written as two linear maps; a block is the smallest module
that holds one of each on a residual stream. All is then measured: branches must add up to the stream, a
recomputed pattern must give the context vectors, a perturbed patch must move its own token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitscope.arrays import Activations
from vitscope.models.claims import Claim, Geometry, Plan, adds_up, close
from vitscope.models.vision_model import PATTERN, Site
from vitscope.tap import Call


def _fused_qkv(first: Call, second: Call) -> bool:
    return _width(first.output) == 3 * _width(second.input)


def _two_layers(first: Call, second: Call) -> bool:
    return _width(first.output) == _width(second.input) and _width(first.input) == _width(second.output)


RULES: tuple[tuple[str, Callable[[Call, Call], bool]], ...] = (
    ("attention", _fused_qkv),
    ("mlp", _two_layers),
)
"""One row per way of writing attention or MLP: does this pair of consecutive linear maps look like it?"""

HEAD_COUNTS = ("num_heads", "heads", "n_heads", "num_attention_heads")
"""What attention modules call their number of heads; a wrong number does not survive the check."""


@dataclass(frozen=True)
class Pair:
    """Two consecutive linear maps that match a rule, and the innermost call that holds both."""

    kind: str
    first: Call
    second: Call
    owner: Call


@dataclass(frozen=True)
class Block:
    """One block as the trace suggests it: two branches on a stream, each a chain of calls."""

    call: Call
    attention: Pair
    mlp: Pair
    first: tuple[Call, ...]
    second: tuple[Call, ...]


@dataclass(frozen=True)
class Weights:
    """Attention weights recomputed from the output of a fused qkv map; a `Site.derive`."""

    heads: int
    scale: float
    norms: tuple[nn.Module, nn.Module] | None

    def __call__(self, qkv: Float[Tensor, "image token three"]) -> Float[Tensor, "image head query key"]:
        """Softmax over the keys of the scaled products of queries and keys."""
        split = "image token (three head dim) -> three image head token dim"
        query, key, _ = rearrange(qkv, split, three=3, head=self.heads)
        if self.norms:  # forward, not call: a site on the norm itself must not fire a second time
            query, key = self.norms[0].forward(query), self.norms[1].forward(key)
        weights: Tensor = (query * self.scale @ key.mT).softmax(dim=-1)
        return weights


def attention_pairs(plan: Plan) -> list[Pair]:
    """The attentions that a rule recognises, in forward order."""
    return [pair for pair in _pairs(plan) if pair.kind == "attention"]


def add_transformer_sites(plan: Plan) -> Geometry | None:
    """Add the sites of transformer blocks to a plan; hands back where tokens lie, if that is certain."""
    pairs = _pairs(plan)
    if not any(pair.kind == "attention" for pair in pairs):
        plan.notes.append("no blocks.i: no attention written as one fused qkv map and a projection")
        return None
    blocks = _blocks(plan, pairs)
    if len({block.call.output for block in blocks}) != 1:
        plan.notes.append(
            "no blocks.i: no modules that each hold one attention and one MLP on a common stream"
        )
        return None
    geometry = _geometry(plan, blocks[0].call)
    if geometry is None:
        plan.notes.append("no blocks.i: it is not certain which token lies where on the image")
        return None
    plan.add(plan.site("embed", blocks[0].call, side="input", geometry=geometry))
    _add_norm(plan, blocks[-1].call, geometry)
    claims = [c for i, block in enumerate(blocks) for c in _claims(plan, block, f"blocks.{i}", geometry)]
    for claim, holds in zip(claims, plan.check(claims), strict=True):
        if holds:
            plan.add(*claim.offers)
        else:
            plan.notes.append(claim.otherwise)
    return geometry


def _pairs(plan: Plan) -> list[Pair]:
    """Pairs of linear maps that match a rule; innermost first choice, each linear map used once."""
    candidates = [
        Pair(kind, first, second, _owner(plan, first, second))
        for first, second in pairwise(call for call in plan.calls if _is_linear(plan, call))
        for kind, matches in RULES
        if matches(first, second)
    ]
    used: set[Call] = set()
    found = []
    for pair in sorted(candidates, key=lambda pair: pair.owner.end - pair.owner.start):
        if not used & {pair.first, pair.second}:
            used |= {pair.first, pair.second}
            found.append(pair)
    return sorted(found, key=lambda pair: pair.first.start)


def _is_linear(plan: Plan, call: Call) -> bool:
    weight = getattr(plan.part(call), "weight", None)
    on_tokens = len(call.input or ()) == len(call.output or ()) == 3
    return on_tokens and getattr(weight, "shape", None) == (_width(call.output), _width(call.input))


def _owner(plan: Plan, first: Call, second: Call) -> Call:
    holders = [call for call in plan.calls if call.start < first.start and second.end < call.end]
    return min(holders, key=lambda call: call.end - call.start)


def _blocks(plan: Plan, pairs: Sequence[Pair]) -> list[Block]:
    """The smallest modules that hold an attention and an MLP; none where one is not understood."""
    holders = [
        call
        for call in plan.calls
        if call.input == call.output and {pair.kind for pair in _within(call, pairs)} == {"attention", "mlp"}
    ]
    smallest = [
        call
        for call in holders
        if not any(call.start < other.start and other.end < call.end for other in holders)
    ]
    blocks = [_block(plan, call, _within(call, pairs)) for call in smallest]
    return [block for block in blocks if block] if all(blocks) else []


def _within(call: Call, pairs: Sequence[Pair]) -> list[Pair]:
    return [pair for pair in pairs if call.start < pair.first.start and pair.second.end < call.end]


def _block(plan: Plan, call: Call, pairs: Sequence[Pair]) -> Block | None:
    """The two branches of a block: a branch is a chain in which each module reads what the last one wrote."""
    chains: list[list[Call]] = []
    for child in plan.children(call):
        if chains and child.reads == chains[-1][-1].writes:
            chains[-1].append(child)
        else:
            chains.append([child])
    if [pair.kind for pair in pairs] != ["attention", "mlp"] or len(chains) != 2:
        return None
    (attention, mlp), (first, second) = pairs, chains
    if not any(_holds(call, attention) for call in first) or not any(_holds(call, mlp) for call in second):
        return None
    return Block(call, attention, mlp, tuple(first), tuple(second))


def _holds(call: Call, pair: Pair) -> bool:
    return call.start <= pair.owner.start and pair.owner.end <= call.end


def _geometry(plan: Plan, first: Call) -> Geometry | None:
    """The grid of the last feature map before the first block, if perturbed patches move their own tokens."""
    maps = [call for call in plan.calls if call.end < first.start and plan.is_map(call.output)]
    shape, cells = first.input or (), max(maps, key=lambda call: call.end).output if maps else None
    if cells is None or len(shape) != 3 or shape[0] != len(plan.sample):
        return None
    geometry = Geometry(shape[1], (cells[2], cells[3]))
    embed = plan.site("embed", first, side="input", geometry=geometry)
    rows, columns = geometry.grid
    # two cells off the diagonal, so that a transposed grid is noticed
    for row, column in ((rows // 3, columns - 1), (rows - 1, columns // 3)):
        if _moved(plan, embed, row, column) != geometry.prefix + row * columns + column:
            return None
    return geometry


def _moved(plan: Plan, site: Site, row: int, column: int) -> int:
    """Which place of a site moves most when the part of the image under one cell of its grid does."""
    (rows, columns), (height, width) = site.grid or (1, 1), plan.sample.shape[-2:]
    down = slice(row * height // rows, (row + 1) * height // rows)
    right = slice(column * width // columns, (column + 1) * width // columns)
    images = plan.sample[:1].repeat(2, 1, 1, 1)
    images[1, :, down, right] = plan.sample[1, :, down, right]
    tokens = plan.read(images, site)
    return int((tokens[1] - tokens[0]).norm(dim=-1).argmax())


def _claims(plan: Plan, block: Block, name: str, geometry: Geometry) -> list[Claim]:
    """The sites of one block; those of the branches and of attention depend on whether they check out."""
    site = partial(plan.site, geometry=geometry)
    stream, out = site(f"{name}.stream", block.call, side="input"), site(name, block.call)
    mid = site(f"{name}.mid", block.second[0], side="input")
    attn, mlp = site(f"{name}.attn", block.first[-1]), site(f"{name}.mlp", block.second[-1])
    context = site(f"{name}.attn.heads", block.attention.second, side="input")
    ffn = site(f"{name}.ffn", block.mlp.second, side="input")
    plan.add(out, context, replace(ffn, before=plan.raw_name(block.mlp.first)))
    norms = [
        site(f"{name}.{label}", norm)
        for label, chain, pair in (
            ("norm1", block.first, block.attention),
            ("norm2", block.second, block.mlp),
        )
        for norm in _before(pair, chain)
    ]
    missing = f"no {name}.mid, .norm1, .norm2, .attn, .mlp: its branches do not add up to its output"
    return [
        Claim((stream, attn, mid), adds_up, (attn, mid, *norms[:1]), missing),
        Claim((mid, mlp, out), adds_up, (mlp, *norms[1:]), missing),
        *_attention_claims(plan, block.attention, context, geometry),
    ]


def _before(pair: Pair, chain: Sequence[Call]) -> list[Call]:
    """The call right before the one that holds the pair, if the branch has one."""
    position = next(index for index, call in enumerate(chain) if _holds(call, pair))
    return [chain[position - 1]] if position else []


def _attention_claims(plan: Plan, pair: Pair, context: Site, geometry: Geometry) -> list[Claim]:
    """q, k, v and the pattern, offered if they reproduce the context vectors."""
    name, heads = context.name.removesuffix(".heads"), _heads(plan, pair)
    missing = f"no {name}.q, .k, .v, .pattern: recomputed, they do not give the context vectors"
    if heads is None or context.units % heads:
        plan.notes.append(missing)
        return []
    site = partial(plan.site, geometry=geometry)
    weights = Weights(heads, _scale(plan, pair, context.units // heads), _query_key_norms(plan, pair, heads))
    query, key, value = (
        site(f"{name}.{letter}", pair.first, units=context.units, derive=partial(_third, index=index))
        for index, letter in enumerate("qkv")
    )
    units = heads * geometry.tokens
    pattern = site(f"{name}.pattern", pair.first, axes=PATTERN, units=units, derive=weights)

    def holds(value: Activations, shares: Float[Tensor, "image query pair"], context: Activations) -> bool:
        values = rearrange(value, "image key (head dim) -> image head key dim", head=heads)
        mixed = rearrange(shares, "image query (head key) -> image head query key", head=heads) @ values
        return close(rearrange(mixed, "image head query dim -> image query (head dim)"), context)

    return [Claim((value, pattern, context), holds, (query, key, value, pattern), missing)]


def _third(qkv: Tensor, *, index: int) -> Tensor:
    return qkv.chunk(3, dim=-1)[index]


def _heads(plan: Plan, pair: Pair) -> int | None:
    counts = [getattr(plan.part(pair.owner), name, None) for name in HEAD_COUNTS]
    return next((count for count in counts if isinstance(count, int) and count > 0), None)


def _scale(plan: Plan, pair: Pair, dim: int) -> float:
    scale = getattr(plan.part(pair.owner), "scale", None)
    return scale if isinstance(scale, float) else float(dim**-0.5)


def _query_key_norms(plan: Plan, pair: Pair, heads: int) -> tuple[nn.Module, nn.Module] | None:
    """The first two modules between qkv and projection that see "image head token dim"."""
    images, tokens, _ = pair.first.output or (0, 0, 0)
    norms = [
        plan.part(call)
        for call in plan.children(pair.owner)
        if pair.first.end < call.start < pair.second.start
        and (call.input or ())[:3] == (images, heads, tokens)
    ]
    return (norms[0], norms[1]) if len(norms) >= 2 else None


def _add_norm(plan: Plan, last: Call, geometry: Geometry) -> None:
    """The final norm: the first module with weights after the last block, if all of them are vectors."""
    for call in plan.calls:
        weights = list(plan.part(call).parameters())
        if call.start > last.end and weights:
            if call.input == call.output == last.output and all(weight.ndim == 1 for weight in weights):
                plan.add(plan.site("norm", call, geometry=geometry))
            return


def _width(shape: tuple[int, ...] | None) -> int:
    return shape[-1] if shape else 0
