"""Interventions on the tokens of a model, reversible: they are in force as long as their `with` lasts.

Each is a context manager that takes the model first and all else by keyword, so that
`functools.partial(isolate_cls, blocks=11)` is one to be applied later. They compose: what is entered first
acts first. A tap inside reads what the changed model computes. Nothing is left behind.

What they change is found by the model's sites and by trying, never by its family. Where one makes no sense
it raises `Unsuited`, which says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from weakref import WeakKeyDictionary

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from vitscope.arrays import Activations
from vitscope.errors import Unsuited
from vitscope.interventions.trunk import Prefix, Run, Tokens, Trunk, alike, answer, noise, trunk
from vitscope.models.vision_model import Site, VisionModel
from vitscope.tap import changed

_HEADS: WeakKeyDictionary[VisionModel, Site | None] = WeakKeyDictionary()
"""The `head_site` of each model, as found once."""


@contextmanager
def isolate_cls(model: VisionModel, *, blocks: int) -> Iterator[None]:
    """Run the first blocks on the prefix tokens and on the patches separately, then all others jointly.

    The prefix (CLS, and distillation or register tokens where there are any) then knows nothing of the image
    until the first joint block (Ghiasi et al. 2022, section 5, Table 1). A place inside a separate block
    cannot be read, as the block runs twice; what leaves it can.

    >>> with isolate_cls(model, blocks=11):              # doctest: +SKIP
    ...     scan(model, images, [Accuracy()])

    Args:
        model: any model with a CLS token from the first block on, off which its answer is read.
        blocks: how many run separately: 0 is the plain model; with all of them the answer is the same for
            every image.

    Raises:
        Unsuited: the model has no such CLS token, or its blocks do not run on a part of the tokens.
        BadValue: the model has fewer blocks.
    """
    found = trunk(model)
    ways = {index: partial(apart, found) for index in range(found.checked(blocks))}
    with found.running(ways):
        yield


@contextmanager
def drop_patches_after(model: VisionModel, *, blocks: int) -> Iterator[None]:
    """Remove the patches after the first blocks; CLS and any other prefix tokens continue alone.

    The complement of `isolate_cls` (in the authors' code, folder `it16`). What is read further on has the
    places of the plain model: the patches stay as they were when they were removed, and nobody looks at them.

    Args:
        model: as for `isolate_cls`.
        blocks: after how many: 0 leaves no way from the image to the answer; all is the plain model.

    Raises:
        Unsuited, BadValue: as `isolate_cls`.
    """
    found = trunk(model)
    ways = {index: partial(prefix_alone, found) for index in range(found.checked(blocks), len(found))}
    with found.running(ways):
        yield


def apart(found: Trunk, run: Run, tokens: Tokens) -> Tokens:
    """Run a block on prefix and patches separately."""
    prefix, patches = found.parts(tokens)
    check_blind(found, prefix)
    return torch.cat([run(part) for part in (prefix, patches) if part.shape[1]], dim=1)


def prefix_alone(found: Trunk, run: Run, tokens: Tokens) -> Tokens:
    """Run a block on the prefix, and leave the patches as they are."""
    prefix, patches = found.parts(tokens)
    return torch.cat([run(prefix), patches], dim=1) if prefix.shape[1] else patches


def check_blind(found: Trunk, prefix: Prefix) -> None:
    """Refuse prefix tokens that know of the image, though no patch was shown to them.

    Raises:
        Unsuited: they differ between images.
    """
    if prefix.numel() and not alike(prefix, prefix[:1].expand_as(prefix)):
        raise Unsuited(
            f"the prefix tokens of {found.model.name} know of the image before they meet a patch: "
            "they cannot be isolated"
        )


@contextmanager
def head_on_places(model: VisionModel) -> Iterator[None]:
    """Let the model answer once for every place, as if all of the last layer's tokens were this one.

    The model hands out several rows an image, one after another: the answer at every place of `head_site`,
    prefix tokens first, and last the answer to the average of all patches. In a model that reads its answer
    off CLS this is its own head on each normed token, and the row of CLS is the plain answer (Ghiasi et al.
    2022, section 5, Fig. 5); in one that averages patches it is what each of them contributes.
    `TokenAccuracy` counts such rows.

    Raises:
        Unsuited: no site before the head has places on the image, or the head does not take single places.
    """
    site = head_site(model)
    with changed(model, {site: partial(_one_by_one, site)}):
        yield


def head_site(model: VisionModel) -> Site:
    """Where `head_on_places` takes the places from: the final norm, or else what leaves the last block.

    Raises:
        Unsuited: there is no such site with places on the image, or the head does not take single places.
    """
    if model not in _HEADS:
        names = [site.name for site in model.sites]
        streams = [name for name in names if re.fullmatch(r"blocks\.\d+|stages\.\d+\.\d+", name)]
        found = [model.sites.named(name) for name in [*(["norm"] if "norm" in names else []), *streams[-1:]]]
        whole = [site for site in found if site.grid is not None]
        _HEADS[model] = next((site for site in whole if _answers_once_for_each(model, site)), None)
    site = _HEADS[model]
    if site is None:
        raise Unsuited(
            f"{model.name} has no norm or last block with places on the image after which its head runs on "
            "single places"
        )
    return site


def _one_by_one(site: Site, activations: Activations) -> Float[Tensor, "row token unit"]:
    """Every place as an image of its own, all of whose tokens are this one; the average of patches last."""
    average = activations[:, site.prefix_tokens :].mean(dim=1, keepdim=True)
    every = torch.cat([activations, average], dim=1)
    return repeat(every, "image place unit -> (image place) token unit", token=site.prefix_tokens + 1)


def _answers_once_for_each(model: VisionModel, site: Site) -> bool:
    """Whether the rest of the model runs on single places and hands out one row for each."""
    pixels = noise(model, images=1)
    try:
        with changed(model, {site: partial(_one_by_one, site)}):
            return len(answer(model, pixels)) == site.places + 1
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return False
