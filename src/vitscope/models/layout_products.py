"""What matrix products and attention do to a layout: which places weigh which, and where the result lies."""

from __future__ import annotations

import torch

from vitscope.models.layout import Layout, Shape, coarser, fresh, is_constant, pairs
from vitscope.models.layout_step import Followed, Step


def product(step: Step) -> Followed:
    """A matrix product: of queries and keys, of attention weights and values, or with a fixed matrix."""
    one, other = step.layout_of(0, "input"), step.layout_of(1, "other")
    if one and other is None and step.operand(1, "other").ndim == 2:
        return mapped(step, one)
    if one is None or other is None or len(one.shape) < 3 or len(other.shape) < 3:
        return None
    for rule in (_attended, _paired, _summed, _spread):
        if found := rule(step.shape, one, other, source=step.number):
            return found
    turned = (*step.shape[:-2], step.shape[-1], step.shape[-2])
    found = _attended(turned, other.turned(), one.turned(), source=step.number)
    return found.turned() if found else None


def _paired(shape: Shape, query: Layout, key: Layout, *, source: int) -> Layout | None:
    """Scores: rows are places of queries, columns places of keys, and what is summed over are units."""
    if query.keys or key.keys or query.is_nowhere or key.is_nowhere:
        return None
    if not (query.lies_alike[-1] and key.lies_alike[-2]) or key.lies_alike[-1]:
        return None
    found = pairs(query, key.turned(), source=source)
    return found if found and found.shape == shape else None


def _attended(shape: Shape, weights: Layout, values: Layout, *, source: int) -> Layout | None:
    """Context vectors: the places of the queries, the units of the values."""
    if weights.keys is None or values.keys or not weights.lies_alike[-1]:
        return None
    if not is_constant(values.unit, -2):
        return None
    place, unit = weights.place[..., :1].expand(shape), values.unit[..., :1, :]
    if unit.shape[:-2] != shape[:-2]:  # heads share their values
        return fresh(weights.grid, place, source=source)
    return Layout(weights.grid, place, unit.expand(shape), values.source)


def _summed(shape: Shape, one: Layout, other: Layout, *, source: int) -> Layout | None:
    """A sum over places, as of keys times values: units against units, which lie nowhere."""
    if one.keys or other.keys or one.lies_alike[-1] or other.lies_alike[-2]:
        return None
    nowhere = torch.zeros((), dtype=torch.int32).expand(shape)
    return Layout(one.grid, nowhere, nowhere, source)


def _spread(shape: Shape, one: Layout, other: Layout, *, source: int) -> Layout | None:
    """What lies nowhere times what lies on places: a map of the units of each place."""
    if one.is_nowhere and other.lies_alike[-2]:
        place = other.place[..., :1, :].expand(shape)
    elif other.is_nowhere and one.lies_alike[-1]:
        place = one.place[..., :1].expand(shape)
    else:
        return None
    return fresh((other if one.is_nowhere else one).grid, place, source=source)


def fused(step: Step) -> Followed:
    """Scaled dot product attention: the places of the queries, the units of the values."""
    query, key, value = (step.layout_of(index, name) for index, name in enumerate(("query", "key", "value")))
    if query is None or key is None or value is None:
        return None
    if not query.lies_alike[-1]:  # units weigh units: "... unit place"
        across = value.lies_alike[-2] and not value.lies_alike[-1]
        place = value.place[..., :1, :].expand(step.shape)
        return fresh(value.grid, place, source=step.number) if across else None
    weights = pairs(query, key, source=step.number)
    return _attended(step.shape, weights, value, source=step.number) if weights else None


def multi_head(step: Step) -> Followed:
    """`nn.MultiheadAttention` in one call, "token image unit": the places of the queries, new units."""
    query = step.layout_of(0, "query")
    found = query.with_units(step.shape[-1], source=step.number) if query else None
    return [found] if found else None


def mapped(step: Step, layout: Layout) -> Layout | None:
    """After a linear map over the last axis: of the units of each place, or of those of a block of places."""
    if own := layout.with_units(step.shape[-1], source=step.number):
        return own
    if layout.keys or not (found := coarser(layout, layout.place)):
        return None
    grid, place = found
    unit = 1 + torch.arange(step.shape[-1], dtype=torch.int32)
    return Layout(grid, place[..., None].expand(step.shape), unit.expand(step.shape), step.number)
