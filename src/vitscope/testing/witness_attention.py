"""Attention for contracts, by the formulas and by the model's own eager mode; naive, in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitscope.arrays import Pixels
from vitscope.models.vision_model import Keys, Site, VisionModel
from vitscope.tap import held
from vitscope.testing.witness import Witness


class Maps(TorchFunctionMode):
    """Every attention map of a pass: what softmax and dropout return, and what fused functions hide.

    `maps` are "... query key" in the order of the pass, each row summing to one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name == "multi_head_attention_forward":
            kwargs = {**kwargs, "need_weights": True, "average_attn_weights": False}
            output, weights = function(*args, **kwargs)
            self.maps.append(weights.detach())
            return output, None
        if name == "scaled_dot_product_attention":
            self.maps.append(naive_weights(*args, **kwargs))
        output = function(*args, **kwargs)
        if name in ("softmax", "dropout") and output.ndim >= 3 and _sums_to_one(output):
            self.maps.append(output.detach().clone())
        return output


def _sums_to_one(rows: Tensor) -> bool:
    return bool(((rows.detach().sum(-1) - 1).abs() < 1e-4).all())


def naive_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention weights by the formula of Vaswani et al. 2017 (section 3.2.1), in float64."""
    del value, dropout_p, is_causal
    repeats = query.shape[-3] // key.shape[-3] if enable_gqa else 1
    keys = (
        torch.cat([key.narrow(-3, index // repeats, 1) for index in range(query.shape[-3])], dim=-3)
        if enable_gqa
        else key
    )
    scores = query.detach().double() @ keys.detach().double().mT
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = torch.where(attn_mask, scores, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask.detach()
    powers = (scores - scores.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


@contextmanager
def unfused(module: nn.Module) -> Iterator[None]:
    """The model's own eager attention, where a flag or a config asks for it."""
    wanted: list[tuple[Any, str, Any, Any]] = []
    for part in module.modules():
        config = getattr(part, "config", None)
        wanted += [(part, "fused_attn", True, False)]
        wanted += [(config, "_attn_implementation", "sdpa", "eager")] if config is not None else []
    switched = [one for one in wanted if getattr(one[0], one[1], None) == one[2]]
    for owner, name, _, eager in switched:
        setattr(owner, name, eager)
    try:
        yield
    finally:
        for owner, name, fused, _ in switched:
            setattr(owner, name, fused)


def eager_maps(model: VisionModel, pixels: Pixels) -> list[Tensor]:
    """The attention maps of a pass in eager mode."""
    maps = Maps()
    with held(model.module), torch.no_grad(), unfused(model.module), maps:
        model.module(model.preprocess(pixels))
    return maps.maps


def matches(weights: Tensor, maps: Sequence[Tensor], *, windows: bool) -> float:
    """How far "image head query key" is from the nearest of these maps; by rows if there are windows."""
    return min((_distance(weights, other, windows) for other in maps), default=float("inf"))


def _distance(weights: Tensor, other: Tensor, windows: bool) -> float:
    """Between the same rows; those of windows are paired by their order along a random line."""
    queries, keys = weights.shape[-2:]
    if other.shape[-1] != keys or other.numel() < weights.numel():
        return float("inf")
    if not windows:
        alike = other.shape[-2] == queries and other.numel() == weights.numel()
        return _apart(other.reshape(weights.shape), weights) if alike else float("inf")
    rows, known = weights.reshape(-1, keys), other.reshape(-1, keys).to(weights.dtype)
    line = torch.rand(keys, generator=torch.Generator().manual_seed(0), dtype=weights.dtype)
    known = known[(known @ line).argsort()]
    after = torch.searchsorted((known @ line).contiguous(), rows @ line)
    around = [(after + step).clamp(0, len(known) - 1) for step in (-2, -1, 0, 1)]
    return float(torch.stack([(known[at] - rows).abs().amax(-1) for at in around]).amin(0).max())


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def other_terms(module: nn.Module) -> list[str]:
    """What the parts of attention are called that scores depend on besides the projections of its inputs."""
    words = (
        "norm",
        "bias_table",
        "rel",
        "rope",
        "rotary",
        "pos",
        "biases",
        "tau",
        "logit_scale",
        "gating",
        "head",
        "temperature",
    )
    names = [name for name, part in module.named_modules() if not isinstance(part, nn.Identity)]
    names += [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    return [name for name in names if any(word in name for word in words)]


def keys_of(site: Site) -> Keys:
    """What the keys of a pattern are."""
    if site.keys is None:
        raise AssertionError(f"{site.name} has no keys")
    return site.keys


def count_of(keys: Keys) -> int:
    """How many keys every query has."""
    return keys.table.shape[1] if keys.table is not None else keys.prefix_tokens + keys.grid[0] * keys.grid[1]


def weights_of(seen: Witness, site: Site) -> Tensor:
    """A pattern as "image head query key"."""
    shares = seen[site.name]
    return shares.reshape(*shares.shape[:2], -1, count_of(keys_of(site))).transpose(1, 2)


def _per_query(values: Tensor, keys: Keys, queries: int) -> Tensor:
    """From "image place unit" to "image query key unit": what every query sees."""
    if keys.table is None:
        return values[:, None].expand(-1, queries, -1, -1)
    return values[:, keys.table.clamp_min(0)]


def mixed(weights: Tensor, values: Tensor, context: Tensor, keys: Keys) -> tuple[Tensor, Tensor]:
    """Weights times values, head by head; and which queries see no padding, whose values nobody knows."""
    heads, queries = weights.shape[1:3]
    width = context.shape[-1] // heads
    groups = values.shape[-1] // width
    seen = _per_query(values, keys, queries)
    parts = []
    for head in range(heads):
        own = head * groups // heads  # queries in groups share their values
        part = seen[..., own * width : (own + 1) * width]
        parts.append((weights[:, head, :, :, None] * part).sum(2))
    whole = torch.ones(queries, dtype=torch.bool) if keys.table is None else (keys.table >= 0).all(-1)
    return torch.cat(parts, dim=-1), whole


def scores_of(query: Tensor, key: Tensor, weights: Tensor, keys: Keys) -> Tensor:
    """Products of queries and keys over the root of their length (Vaswani et al. 2017, section 3.2.1)."""
    heads = weights.shape[1]
    width = query.shape[-1] // heads
    seen = _per_query(key, keys, query.shape[1])
    groups = key.shape[-1] // width
    parts = []
    for head in range(heads):
        own = head * groups // heads
        part = seen[..., own * width : (own + 1) * width]
        parts.append((query[:, :, None, head * width : (head + 1) * width] * part).sum(-1))
    scale: float = width**-0.5
    return torch.stack(parts, dim=1) * scale
