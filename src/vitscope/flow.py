"""Where attention goes on the picture: what each head looks at, and rollout through all blocks.

Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928, section 3) takes a block's attention and its skip
connection for equals and multiplies the blocks. It leaves out values, MLPs and norms: it says where
information could have come from, and is no attribution of what the model answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vitscope.arrays import Activations, Pixels
from vitscope.errors import BadValue, Unsuited
from vitscope.meters.attention import by_head
from vitscope.models.vision_model import Keys, Site, VisionModel
from vitscope.tap import read

PATTERNS = "blocks.*.attn.pattern"


def attention_view(site: Site, weights: Activations) -> Float[Tensor, "image head row column"]:
    """Where each head looks: the attention of CLS, or the mean over all queries where there is no CLS.

    Args:
        site: an attention pattern.
        weights: what was read there.

    Returns:
        Of every key on the image its share of the attention, in [0, 1]; what is missing to a sum of 1 goes
        to prefix tokens, or to the padding of windows. The grid is that of the keys.

    Raises:
        BadValue: the site is no attention pattern.

    >>> site = model.site("blocks.5.attn.pattern")                                 # doctest: +SKIP
    >>> attention_view(site, read(model, pixels, [site])[site.name])               # doctest: +SKIP
    """
    rows, keys = by_head(site, weights), _keys(site)
    first = slice(0, 1) if site.prefix_tokens else slice(None)
    rows = rows[:, :, first] / rows[:, :, first].shape[2]
    if keys.table is None:
        mass = rows.sum(2)
    else:
        flat = rearrange(rows, "image head query key -> image head (query key)")
        mass = _at_places(flat, keys.table[first].flatten(), keys)
    found: Tensor = rearrange(
        mass[..., keys.prefix_tokens :], "image head (row column) -> image head row column", row=keys.grid[0]
    )
    return found


def spread(site: Site, weights: Activations) -> Float[Tensor, "image head query place"]:
    """The weights with a column for every place that may be a key, prefix tokens first: of windows, zero
    outside.

    Raises:
        BadValue: the site is no attention pattern.
    """
    rows, keys = by_head(site, weights), _keys(site)
    return rows if keys.table is None else _at_places(rows, keys.table, keys)


def rolled(
    layers: Sequence[Float[Tensor, "*batch query key"]], *, residual: bool = True
) -> Float[Tensor, "level *batch query key"]:
    """The product of attention matrices, from nothing to all of them: `level` 0 is the identity.

    Args:
        layers: of every block, in order; rows are queries and sum to one.
        residual: whether the skip connection counts as much as attention does: half of a row stays with its
            own token, so that after n blocks at least 0.5^n does.

    Returns:
        Rows sum to one: the share of a token after `level` blocks that flowed from each token before the
        first.

    Raises:
        BadValue: there is no layer.
    """
    if not layers:
        raise BadValue("attention is rolled out over at least one block")
    own = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype, device=layers[0].device)
    levels = [own.expand(layers[0].shape)]
    for layer in layers:
        step = layer
        if residual:
            both = layer + own
            step = both / both.sum(-1, keepdim=True)
        levels.append(step @ levels[-1])
    return torch.stack(levels)


def rollout(
    model: VisionModel, pixels: Pixels, *, residual: bool = True
) -> Float[Tensor, "level image query key"]:
    """Attention rollout of a model on some images; heads are averaged.

    Args:
        model: one whose blocks all have attention among the same tokens.
        pixels: in [0, 1], at the model's input size; all levels are returned, so show it few images
            at once.
        residual: as of `rolled`.

    Returns:
        As `rolled`. Prefix tokens come first; those of CLS over the patches, after all blocks, are
        `rollout(model, pixels)[-1, :, 0, prefix_tokens:]`.

    Raises:
        Unsuited: the model has no attention, or not in all blocks, or its tokens change on the way.
    """
    return rolled([layer.mean(1) for layer in _layers(model, pixels)], residual=residual)


def rolled_heads(
    model: VisionModel, pixels: Pixels, *, residual: bool = True
) -> Float[Tensor, "level image head query key"]:
    """As `rollout`, for each head by itself: head h of every block is followed by head h of the next.

    Raises:
        Unsuited: as `rollout`, or blocks have different numbers of heads.
    """
    layers = _layers(model, pixels)
    if len({layer.shape[1] for layer in layers}) > 1:
        raise Unsuited(f"blocks of {model.name} have different numbers of heads: none can be followed")
    return rolled(layers, residual=residual)


def rolling_sites(model: VisionModel) -> list[Site]:
    """The attention patterns of all blocks, where they can be multiplied.

    Raises:
        Unsuited: as `rollout`; the message names the first block that stands in the way.
    """
    names = {site.name: site for site in model.sites}
    count = sum(f"blocks.{index}" in names for index in range(len(names)))
    if not count or not any(site.keys for site in model.sites):
        raise Unsuited(
            f"{model.name} has no attention to roll out. Give a model such as vit_tiny_patch16_224"
        )
    found: list[Site] = []
    for index in range(count):
        site = names.get(f"blocks.{index}.attn.pattern")
        if site is None or site.keys is None:
            raise Unsuited(f"attention of {model.name} cannot be rolled out: blocks.{index} hands out none")
        first = found[0] if found else site
        if (site.grid, site.prefix_tokens) != (site.keys.grid, site.keys.prefix_tokens) or (
            (site.grid, site.prefix_tokens) != (first.grid, first.prefix_tokens)
        ):
            raise Unsuited(
                f"attention of {model.name} cannot be rolled out: at {site.name} queries and keys are not "
                "the tokens that enter the first block"
            )
        found.append(site)
    return found


def _layers(model: VisionModel, pixels: Pixels) -> list[Float[Tensor, "image head query key"]]:
    """The attention of every block, in order."""
    sites = rolling_sites(model)
    with torch.no_grad():
        found = read(model, pixels, sites)
    return [spread(site, found[site.name]) for site in sites]


def _keys(site: Site) -> Keys:
    """What `by_head` has found to be there."""
    if site.keys is None:
        raise BadValue(f"{site.name} holds no attention weights")
    return site.keys


def _at_places(
    values: Float[Tensor, "*batch pair"], table: Tensor, keys: Keys
) -> Float[Tensor, "*batch place"]:
    """Values added up at the places that a table gives them; what is padding, -1, is dropped."""
    places = keys.prefix_tokens + keys.grid[0] * keys.grid[1]
    table = torch.where(table >= 0, table, places).to(values.device)
    found = values.new_zeros(*values.shape[:-1], places + 1)
    return found.scatter_add_(-1, table.expand_as(values), values)[..., :-1]
