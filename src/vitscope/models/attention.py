"""The ways models write attention, one rule each: where queries, keys, values and weights are to be seen.

A rule looks at the functions a branch calls. What it finds is a `Core`: the values that act as queries, keys
and values, the context vectors, and how the attention weights are had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from vitscope.models.layout import Layout, pairs
from vitscope.models.streams import MAPS, is_weighting, is_weights
from vitscope.trace import Op, Value, reaches


@dataclass(frozen=True)
class Core:
    """The heart of one attention.

    Attributes:
        way: the name of the rule.
        op: the function that makes the context vectors.
        query, key, value: what acts as them, after any norms and rotations.
        weights: from the arguments of `op` to the attention weights; None if none go from place to place.
        weights_layout: where the weights lie, None if that is not known.
        used: from the arguments of `op` to the values it weighs.
        used_layout: where these lie, "... place unit".
        mixes_heads: whether a map goes from heads to heads after the softmax.
        recomputed: whether the weights are computed again, as a fused function does not hand them out.
    """

    way: str
    op: Op
    query: Value
    key: Value
    value: Value
    weights: Callable[[Any], Tensor] | None = None
    weights_layout: Layout | None = None
    used: Callable[[Any], Tensor] | None = None
    used_layout: Layout | None = None
    mixes_heads: bool = False
    recomputed: bool = False

    @property
    def context(self) -> Value:
        """The context vectors, before the output projection."""
        return self.op.output


@dataclass(frozen=True)
class Argument:
    """One argument of a function, turned so that its last two axes change places if need be."""

    index: int
    turned: bool = False

    def __call__(self, given: Any) -> Tensor:
        """The tensor."""
        args, kwargs = given
        tensor: Tensor = (*args, *kwargs.values())[self.index]
        return tensor.mT if self.turned else tensor


def fused(ops: Sequence[Op]) -> list[Core]:
    """One call of torch's scaled dot product attention: weights are computed again from what it is given."""
    return [_fused(op) for op in ops if op.name == "scaled_dot_product_attention"]


def _fused(op: Op) -> Core:
    query, key, value = op.inputs[:3]
    if query.layout is not None and not query.layout.lies_alike[-1]:
        return Core("cross-covariance", op, query, key, value)
    lies = pairs(query.layout, key.layout, source=-1) if query.layout and key.layout else None
    return Core(
        "softmax",
        op,
        query,
        key,
        value,
        weights=fused_weights,
        weights_layout=lies,
        used=Argument(2),
        used_layout=value.layout,
        recomputed=True,
    )


def eager(ops: Sequence[Op]) -> list[Core]:
    """Weights from a softmax of scores, times values: weights are read as they are."""
    return [core for op in ops if is_weighting(op) if (core := _eager(op))]


def _eager(op: Op) -> Core | None:
    turned = not is_weights(op.inputs[0])  # values times weights, both with places last
    weights, value = op.inputs[::-1] if turned else op.inputs
    (scores, mixed), lies, over = _scores(weights), weights.layout, value.layout
    if scores is None or lies is None or over is None:
        return None
    query, key = scores.inputs
    first, second = Argument(int(turned), turned), Argument(int(not turned), turned)
    if turned:
        lies, over = lies.turned(), over.turned()
    return Core(
        "softmax",
        op,
        query,
        key,
        value,
        weights=first,
        weights_layout=lies,
        used=second,
        used_layout=over,
        mixes_heads=mixed,
    )


def unordered(ops: Sequence[Op]) -> list[Core]:
    """Sums over places first: cross-covariance (units weigh units), factorised and linear attention."""
    products = [op for op in ops if op.name == "matmul" and len(op.image_inputs) == 2]
    cores = []
    for first, second in pairwise(products):
        made = [value for value in second.inputs if reaches(value, first.output)]
        rest = [value for value in second.inputs if not reaches(value, first.output)]
        summed = first.output.layout is not None and first.output.layout.is_nowhere
        if not summed or len(made) != 1 or len(rest) != 1:
            continue
        one, other = first.inputs
        if any(op.name == "softmax" and reaches(op.inputs[0], first.output) for op in ops):
            cores.append(Core("cross-covariance", second, one, other, rest[0]))
        elif second.inputs[0] is rest[0]:  # queries times a sum whose rows belong to its first factor
            cores.append(Core("linear", second, rest[0], one, other))
        else:
            cores.append(Core("linear", second, rest[0], other, one))
    return cores


def multi_head(ops: Sequence[Op]) -> list[Core]:
    """One call of torch's whole multi-head attention, projections included."""
    return [
        Core("multi-head module", op, op.inputs[0], op.inputs[1], op.inputs[2])
        for op in ops
        if op.name == "multi_head_attention_forward"
    ]


WAYS: tuple[Callable[[Sequence[Op]], list[Core]], ...] = (fused, eager, unordered, multi_head)
"""One rule per way of writing attention."""


def cores(ops: Sequence[Op]) -> list[Core]:
    """The attentions among these functions, by the first way that recognises any."""
    return next((found for way in WAYS if (found := way(ops))), [])


def _scores(weights: Value) -> tuple[Op | None, bool]:
    """The product of queries and keys whose softmax became these weights; whether a map came after it."""
    value, soft, mixed = weights, False, False
    while op := value.made_by:
        soft = soft or op.name == "softmax"
        mixed = mixed or (not soft and op.name in MAPS)
        if op.name == "matmul" and len(op.image_inputs) == 2:
            return (op if soft else None), mixed
        before = [given for given in op.inputs if is_weights(given)]
        if not before:
            break
        value = before[0]
    return None, mixed


def fused_weights(given: Any) -> Tensor:
    """The weights inside `scaled_dot_product_attention`, from its arguments; "image head query key".

    Masks, biases and grouped queries included (torch.nn.functional, the reference code in its docstring).
    """
    args, kwargs = given
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    facts = {**dict(zip(names, args, strict=False)), **kwargs}
    query, key = facts["query"], facts["key"]
    if facts.get("enable_gqa"):
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    scale = facts.get("scale")
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    mask = facts.get("attn_mask")
    if facts.get("is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        scores = scores + mask
    weights: Tensor = scores.softmax(dim=-1)
    return weights


MULTI_HEAD = (
    *("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias"),
    *("bias_k", "bias_v", "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias", "training"),
    *("key_padding_mask", "need_weights", "attn_mask", "use_separate_proj_weight"),
    *("q_proj_weight", "k_proj_weight", "v_proj_weight"),
)
"""The arguments of `multi_head_attention_forward`, in order (torch.nn.functional)."""


@dataclass(frozen=True)
class MultiHead:
    """What lies inside `multi_head_attention_forward`, from its arguments; a `Site.derive`.

    Attributes:
        part: "q", "k", "v", "heads", "output" ("image place unit") or "pattern" ("image head query key").
    """

    part: str

    def __call__(self, given: Any) -> Tensor:
        """The part, as torch.nn.functional computes it; keys that it adds of its own are not known."""
        args, kwargs = given
        facts = {**dict(zip(MULTI_HEAD, args, strict=False)), **kwargs}
        projected = dict(zip("qkv", _projected(facts), strict=True))
        if self.part in projected:
            return projected[self.part]
        query, key, value = (
            rearrange(x, "image place (head dim) -> image head place dim", head=facts["num_heads"])
            for x in projected.values()
        )
        pattern = fused_weights(((query, key, value, _mask(facts)), {}))
        if self.part == "pattern":
            return pattern
        context = rearrange(pattern @ value, "image head place dim -> image place (head dim)")
        if self.part == "heads":
            return context
        return functional.linear(context, facts["out_proj_weight"], facts.get("out_proj_bias"))


def _projected(facts: Mapping[str, Any]) -> list[Tensor]:
    """Queries, keys and values of `multi_head_attention_forward`, "image place unit"."""
    if facts.get("use_separate_proj_weight"):
        weights = [facts[f"{letter}_proj_weight"] for letter in "qkv"]
    else:
        weights = [*facts["in_proj_weight"].chunk(3)]
    biases = [None] * 3 if facts.get("in_proj_bias") is None else facts["in_proj_bias"].chunk(3)
    return [
        rearrange(functional.linear(facts[name], weight, bias), "place image unit -> image place unit")
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True)
    ]


def _mask(facts: Mapping[str, Any]) -> Tensor | None:
    """What is added to the scores; where a mask of this function is true, nothing may look."""
    mask, padding = facts.get("attn_mask"), facts.get("key_padding_mask")
    if mask is not None and mask.ndim == 3:
        mask = rearrange(mask, "(image head) query key -> image head query key", head=facts["num_heads"])
    if padding is not None:
        padding = rearrange(padding, "image key -> image 1 1 key")
    given = [_added(part) for part in (mask, padding) if part is not None]
    return sum(given[1:], given[0]) if given else None


def _added(mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill(mask, -torch.inf)
