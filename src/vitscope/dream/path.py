"""Does a dream take the same path through a model as the images that excite its unit?

A sanity check after Geirhos et al. 2023 ("Don't trust your eyes", arXiv:2306.04719, section 4): a picture may
excite a unit along a path that no photograph takes, and then it tells little about photographs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.arrays import Pixels
from vitscope.models.vision_model import Site, VisionModel
from vitscope.tap import tap

APART = 1e-3
"""Exemplars have to be alike by this much more than unrelated images are, or the comparison has no scale."""

Profile = Float[Tensor, "_ unit"]
"""Activations of some images, averaged over their grid."""


def path_similarity(
    model: VisionModel,
    dream: Float[Tensor, "1 rgb row column"],
    exemplars: Float[Tensor, "exemplar rgb row column"],
    others: Float[Tensor, "other rgb row column"],
    *,
    sites: Sequence[Site],
) -> dict[str, float | None]:
    """How alike a dream and a unit's exemplars are at sites on the way to the unit.

    Alike is the rank correlation (Spearman) of two images' activations over units, averaged over the grid
    first, as a dream repeats its pattern where a photograph shows it once; the original compares whole
    layers.

    Args:
        model: the model.
        dream: one image, in [0, 1].
        exemplars: the images that excite the unit most; at least two.
        others: unrelated images.
        sites: where to compare; usually the outputs of the blocks before the unit.

    Returns:
        By site: 0 where the dream is as like the exemplars as unrelated images are, 1 where it is as like
        them as they are like each other; below and above are possible. None where exemplars are no more
        alike than unrelated images.
    """
    profiles = [_profiles(model, images, sites) for images in (dream, exemplars, others)]
    return {site.name: _placed(*(each[site.name] for each in profiles)) for site in sites}


def _placed(dream: Profile, exemplars: Profile, others: Profile) -> float | None:
    """Where the dream stands between unrelated images and exemplars."""
    count = len(exemplars)
    among = (_correlations(exemplars, exemplars).sum() - count) / (count * (count - 1))
    apart = _correlations(others, exemplars).mean()
    if among - apart < APART:
        return None
    return ((_correlations(dream, exemplars).mean() - apart) / (among - apart)).item()


def _correlations(some: Profile, others: Profile) -> Float[Tensor, "_ _"]:
    """Spearman's correlation of every pair."""
    one, other = (_standardised(_ranks(profile)) for profile in (some, others))
    return one @ other.T / one.shape[1]


def _ranks(profile: Profile) -> Profile:
    """Ranks over units, ties sharing the mean of theirs."""
    ordered, order = profile.sort(dim=1)
    ranks = torch.empty_like(profile)
    for row in range(len(profile)):
        _, inverse, counts = torch.unique_consecutive(ordered[row], return_inverse=True, return_counts=True)
        last = counts.cumsum(dim=0).to(profile)
        ranks[row, order[row]] = (last - (counts - 1) / 2)[inverse]
    return ranks


def _standardised(values: Profile) -> Profile:
    centred = values - values.mean(dim=1, keepdim=True)
    return centred / centred.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-12)


def _profiles(model: VisionModel, images: Pixels, sites: Sequence[Site]) -> dict[str, Profile]:
    """Activations averaged over the grid, in float64."""
    found: dict[str, Profile] = {}

    def on_read(site: Site, activations: Tensor) -> None:
        places = activations[:, site.prefix_tokens :] if site.grid else activations
        found[site.name] = places.double().mean(dim=1)

    with torch.no_grad(), tap(model, sites, on_read=on_read) as run:
        run(images)
    return found
