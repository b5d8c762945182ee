"""Taking a model's position embeddings away, or mixing them up; reversible, as all interventions.

The table of positions is found by trying, not by its name: it is the weight of which every row moves its own
place of `embed`, and no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vitscope.errors import BadValue, Unsuited
from vitscope.interventions.trunk import SAME, noise
from vitscope.models.vision_model import Site, VisionModel
from vitscope.tap import read

NOISE = 0.02
"""Standard deviation of the noise in the place of positions (the authors' `it7/no_pos.py`)."""

WAYS = ("zero", "shuffle", "noise")
"""What can take the place of positions."""

_TABLES: WeakKeyDictionary[VisionModel, str] = WeakKeyDictionary()
"""The name of each model's table of positions, "" where it has none."""


@contextmanager
def without_positions(model: VisionModel, *, how: str = "zero", seed: int = 0) -> Iterator[None]:
    """Take the position embeddings away (Ghiasi et al. 2022, the authors' `it7/no_pos.py`).

    Relative positions and rotations inside attention, where a model has them as well, stay.

    Args:
        model: any model that adds a table of positions to its tokens.
        how: "zero"; "shuffle" gives every patch the position of another, the same in all images, and leaves
            those of prefix tokens; "noise" puts random numbers of standard deviation 0.02 in their place.
        seed: of the order or the noise.

    Raises:
        Unsuited: the model adds no table of positions to its tokens.
        BadValue: another word for `how`.
    """
    if how not in WAYS:
        raise BadValue(f"how must be 'zero', 'shuffle' or 'noise', not {how!r}")
    name = table_of_positions(model)
    table = dict(_weights(model.module))[name]
    site = model.site("embed")
    _ = model.fingerprint  # that of the weights as they are
    with _swapped(model.module, name, _other(table.detach(), site, how=how, seed=seed)):
        yield


def table_of_positions(model: VisionModel) -> str:
    """The name of the weight that holds the positions of a model's tokens.

    Raises:
        Unsuited: there is none.
    """
    if model not in _TABLES:
        site = next((site for site in model.sites if site.name == "embed" and site.grid), None)
        names = [name for name, _ in _weights(model.module)] if site else []
        found = (name for name in names if _is_table(model, name, site))
        _TABLES[model] = next(found, "")
    if not _TABLES[model]:
        raise Unsuited(
            f"{model.name} adds no table of positions to its tokens: whatever it knows of places "
            "comes from relative positions, rotations or convolutions"
        )
    return _TABLES[model]


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _is_table(model: VisionModel, name: str, site: Site | None) -> bool:
    """Whether two of its rows each move their own place, and no other."""
    weight = dict(_weights(model.module))[name]
    if site is None:
        return False
    patches = site.places - site.prefix_tokens
    first = {site.places * site.units: site.prefix_tokens, patches * site.units: 0}.get(weight.numel())
    if first is None or not weight.is_floating_point():
        return False
    pixels = noise(model, images=1)
    plain = read(model, pixels, [site])[site.name]
    for patch in (1 % patches, patches - 1):
        rows = _as_rows(weight.detach().clone(), site)
        rows[first + patch] += rows.std() + 1.0
        rows[first + patch, ::2] -= 1.0  # not the same in all units, which a norm would take away
        with _swapped(model.module, name, _as_table(rows, weight, site)):
            moved = (read(model, pixels, [site])[site.name] - plain).abs().amax((0, 2))
        own = moved[site.prefix_tokens + patch].clone()
        moved[site.prefix_tokens + patch] = 0.0
        if not own > 0 or moved.max() > SAME * own:
            return False
    return True


def _other(table: Tensor, site: Site, *, how: str, seed: int) -> Tensor:
    if how == "zero":
        return torch.zeros_like(table)
    draw = torch.Generator().manual_seed(seed)
    if how == "noise":
        return NOISE * torch.randn(table.shape, generator=draw).to(table)
    rows = _as_rows(table, site)
    patches = site.places - site.prefix_tokens
    first = len(rows) - patches
    order = torch.cat([torch.arange(first), first + torch.randperm(patches, generator=draw)])
    return _as_table(rows[order.to(table.device)], table, site)


def _as_rows(table: Tensor, site: Site) -> Tensor:
    """One row for every place: tables end in units, or are maps of units first."""
    if table.shape[-1] == site.units:
        return table.reshape(-1, site.units)
    return table.reshape(site.units, -1).T


def _as_table(rows: Tensor, table: Tensor, site: Site) -> Tensor:
    return (rows if table.shape[-1] == site.units else rows.T).reshape(table.shape)


@contextmanager
def _swapped(module: nn.Module, name: str, instead: Tensor) -> Iterator[None]:
    """Another tensor in the place of a weight, wherever the module holds it; the weight is not touched."""
    weight = dict(_weights(module))[name]
    swap = nn.Parameter(instead, requires_grad=False) if isinstance(weight, nn.Parameter) else instead
    homes: list[tuple[dict[str, Any], str]] = [
        (home, own)
        for part in module.modules()
        for home in (part._parameters, part._buffers)
        for own, other in home.items()
        if other is weight
    ]
    try:
        for home, own in homes:
            home[own] = swap
        yield
    finally:
        for home, own in homes:
            home[own] = weight
