"""What one pass over one picture shows: the answer, where heads look, and which patches are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from vitscope.arrays import Activations, Pixels
from vitscope.errors import UnknownSite
from vitscope.flow import attention_view, rolled, spread
from vitscope.meters.clusters import artefacts
from vitscope.models.vision_model import Site, VisionModel
from vitscope.tap import tap

Array = NDArray[Any]
ANSWERS = 5
"""Classes of an answer that are told."""
TRIES = 4
"""Starts of k-means, of which the best is kept."""


@dataclass(frozen=True)
class Guess:
    """One class of the answer.

    Attributes:
        index: the number of its logit.
        name: what the class is called, "class 207" where names are not known.
        probability: softmax over all logits, in [0, 1].
    """

    index: int
    name: str
    probability: float


@dataclass(frozen=True, eq=False)
class Head:
    """Where one head looks.

    Attributes:
        site: where its weights were read.
        head: its number in the block.
        view: the share of attention that each place gets, from CLS, or on average from all places where
            there is no CLS.
        prefix: the share that goes to prefix tokens, or to padding: `view` and it sum to one.
    """

    site: str
    head: int
    view: Float[Array, "row column"] = field(repr=False)
    prefix: float


@dataclass(frozen=True, eq=False)
class Reach:
    """Attention rolled out to the input, after one of the blocks.

    Attributes:
        site: the stream that leaves the block.
        view: the share of what CLS holds, or places on average, that came from each place.
        prefix: the share that came from prefix tokens: `view` and it sum to one.
    """

    site: str
    view: Float[Array, "row column"] = field(repr=False)
    prefix: float


@dataclass(frozen=True, eq=False)
class Groups:
    """Places of one site that are alike.

    Attributes:
        site: where they were read.
        labels: the group of every place, from 0; as far as possible a group keeps its number from site to
            site.
        outliers: places whose norm is far above the median of the picture: `meters.clusters.artefacts`.
    """

    site: str
    labels: Int[Array, "row column"] = field(repr=False)
    outliers: int


def grids(model: VisionModel, pattern: str) -> list[Site]:
    """The sites of a pattern that have several places on the picture; none where nothing matches."""
    try:
        return [site for site in model.sites(pattern) if site.grid and site.places > 1]
    except UnknownSite:
        return []


@dataclass(frozen=True, eq=False)
class Glance:
    """What one pass over one picture left behind, on the processor, in float32.

    Attributes:
        values: activations, by site.
        views: where each head looks, by attention site.
        mixing: attention averaged over heads, of the blocks that can be rolled out, in order.
    """

    values: Mapping[str, Activations]
    views: Mapping[str, Float[Tensor, "head row column"]]
    mixing: Sequence[Float[Tensor, "query key"]]


def glanced(model: VisionModel, pixels: Pixels, sites: Sequence[Site], *, rolling: Sequence[Site]) -> Glance:
    """All that is wanted of one picture, in one pass. Of attention only what is shown is kept: weights of all
    heads and blocks together may be gigabytes."""
    values: dict[str, Activations] = {}
    views: dict[str, Tensor] = {}
    mixing: list[Tensor] = []
    followed = {site.name for site in rolling}

    def keep(site: Site, activations: Activations) -> None:
        found = activations.float().cpu()
        if not site.keys:
            values[site.name] = found.clone()
            return
        views[site.name] = attention_view(site, found)[0].clone()
        if site.name in followed:
            mixing.append(spread(site, found)[0].mean(0))

    with torch.no_grad(), tap(model, sites, on_read=keep) as run:
        run(pixels)
    return Glance(values, views, mixing)


def guesses(model: VisionModel, found: Glance) -> tuple[Guess, ...]:
    """The first classes of the answer; none where it is not finite."""
    logits = found.values["logits"][0, 0].double()
    if not logits.isfinite().all():
        return ()
    shares, best = logits.softmax(0).topk(min(ANSWERS, len(logits)))
    names = model.classes or ()
    return tuple(
        Guess(index, names[index] if index < len(names) else f"class {index}", share)
        for index, share in zip(best.tolist(), shares.tolist(), strict=True)
    )


def heads(found: Glance) -> tuple[Head, ...]:
    """Where each head looks, block by block."""
    return tuple(
        Head(name, number, view.numpy(), max(0.0, 1 - float(view.sum())))
        for name, every in found.views.items()
        for number, view in enumerate(every)
    )


def reaches(sites: Sequence[Site], found: Glance) -> tuple[Reach, ...]:
    """Attention rollout after every block, of the sites of `flow.rolling_sites`."""
    prefix, (rows, _) = sites[0].prefix_tokens, sites[0].grid or (1, 1)
    flow = rolled(found.mixing)[1:]
    queries: Float[Tensor, "level place"] = flow[:, 0] if prefix else flow.mean(1)
    views = rearrange(queries[:, prefix:], "level (row column) -> level row column", row=rows).numpy()
    return tuple(
        Reach(site.name.removesuffix(".attn.pattern"), view, max(0.0, 1 - float(view.sum())))
        for site, view in zip(sites, views, strict=True)
    )


def groups(sites: Sequence[Site], found: Glance, *, count: int) -> tuple[Groups, ...]:
    """The places of each site in groups that are alike; a site whose values are not finite is left out."""
    every: list[Groups] = []
    for site in sites:
        values = found.values[site.name][0, site.prefix_tokens :].numpy()
        if site.grid is None or not np.isfinite(values).all():
            continue
        labels = alike(values, count=count).reshape(site.grid)
        if every:
            labels = _renamed(labels, like=every[-1].labels)
        every.append(Groups(site.name, labels, int(artefacts(values).sum())))
    return tuple(every)


def alike(values: Float[Array, "place unit"], *, count: int) -> Int[Array, " place"]:
    """The group of each place: k-means of the directions of the places from their mean."""
    from sklearn.cluster import KMeans

    away = values - values.mean(axis=0)
    lengths = np.linalg.norm(away, axis=1, keepdims=True)
    points = np.divide(away, lengths, out=np.zeros_like(away), where=lengths > 0)
    different = len(np.unique(points.round(5), axis=0))
    kinds = KMeans(min(count, different), n_init=TRIES, random_state=0)
    found: Array = kinds.fit_predict(points).astype(np.int64)
    return found


def _renamed(labels: Int[Array, "row column"], *, like: Int[Array, "down across"]) -> Array:
    """The same groups with the numbers of those before that they share most places with."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = (
        np.arange(ours) * theirs // ours for ours, theirs in zip(labels.shape, like.shape, strict=True)
    )
    before = like[np.ix_(rows, columns)]
    size = int(max(labels.max(), before.max())) + 1
    shared = np.zeros((size, size))
    np.add.at(shared, (labels.ravel(), before.ravel()), 1)
    ours, theirs = linear_sum_assignment(shared, maximize=True)
    numbers = np.empty(size, np.int64)
    numbers[ours] = theirs
    return np.asarray(numbers[labels])
