"""Attention weights, read at `blocks.i.attn.pattern`: rows by head, and how much goes to prefix tokens."""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vitscope.arrays import Activations
from vitscope.errors import BadValue
from vitscope.models.vision_model import Site


def by_head(site: Site, weights: Activations) -> Float[Tensor, "image head query key"]:
    """The weights of an attention site, one row for every query and head; `site.keys` says what keys are.

    Raises:
        BadValue: the site is no attention pattern.
    """
    if site.keys is None:
        raise BadValue(f"{site.name} holds no attention weights: read a site such as blocks.0.attn.pattern")
    return rearrange(weights, "image query (head key) -> image head query key", key=site.keys.count)


def prefix_mass(site: Site, weights: Activations) -> Float[Tensor, "image head query"]:
    """How much of each query's attention goes to prefix tokens (CLS, distillation, registers), in [0, 1].

    Raises:
        BadValue: the site is no attention pattern.

    Example:
        >>> site = model.site("blocks.5.attn.pattern")
        >>> prefix_mass(site, read(model, pixels, [site])[site.name]).mean()
    """
    rows = by_head(site, weights)
    counted = site.keys.prefix.to(rows) if site.keys else rows.new_zeros(())
    mass: Tensor = (rows * counted).sum(-1)
    return mass
