"""Interventions on units and branches: ablate or scale what any site holds, remove a skip connection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from vitscope.address import Address
from vitscope.arrays import Activations
from vitscope.errors import BadValue, UnknownSite, Unsuited
from vitscope.models.vision_model import Site, VisionModel
from vitscope.tap import Change, changed


@contextmanager
def ablate(model: VisionModel, *, addresses: str | Address | Iterable[str | Address]) -> Iterator[None]:
    """Set units to zero, at all places or at the one that the address names; all units where it names none.

    >>> with ablate(model, addresses=["blocks.5.ffn:40", "blocks.7.attn"]):   # doctest: +SKIP

    Raises:
        BadAddress, UnknownSite, UnknownAddress: as `VisionModel.site`.
        SiteError: in a pass, where a site can only be read.
    """
    with scale(model, addresses=addresses, by=0.0):
        yield


@contextmanager
def scale(
    model: VisionModel, *, addresses: str | Address | Iterable[str | Address], by: float
) -> Iterator[None]:
    """Multiply units by a number; addresses as for `ablate`. By 1 it changes nothing, by 0 it ablates.

    Raises:
        BadAddress, UnknownSite, UnknownAddress, SiteError: as `ablate`.
        BadValue: no address.
    """
    several = [addresses] if isinstance(addresses, (str, Address)) else addresses
    given = [Address.parse(one) for one in several]
    if not given:
        raise BadValue("no address to change")
    chosen: dict[Site, Tensor] = {}
    for address in given:
        site = model.site(address)
        where = chosen.setdefault(site, torch.zeros(site.places, site.units, dtype=torch.bool))
        place = slice(None) if address.place is None else site.place_index(address.place)
        where[place, slice(None) if address.unit is None else address.unit] = True
    with changed(model, {site: _scaled(where, by) for site, where in chosen.items()}):
        yield


def _scaled(where: Tensor, by: float) -> Change:
    def change(activations: Activations) -> Activations:
        new = activations * by if by else torch.zeros_like(activations)  # zero, even of what is not finite
        return torch.where(where.to(activations.device), new, activations)

    return change


@contextmanager
def remove_skip(model: VisionModel, *, block: int, which: str = "both") -> Iterator[None]:
    """Remove skip connections of a block: the stream becomes what the branch hands out, z <- f(z).

    A model that was trained with its skips is not the one that Raghu et al. (2021, section 5, Fig. 8) trained
    without them: its accuracy falls far lower.

    Args:
        model: any model with blocks of two branches.
        block: the number of the block.
        which: "first" around attention (or another mixing of places), "mlp" around the MLP, or "both".

    Raises:
        Unsuited: the block has no such branch.
        BadValue: another word.
    """
    if which not in ("first", "mlp", "both"):
        raise BadValue(f"which must be 'first', 'mlp' or 'both', not {which!r}")
    names = {site.name for site in model.sites}
    name = f"blocks.{block}"
    first = next((f"{name}.{kind}" for kind in ("attn", "mix") if f"{name}.{kind}" in names), f"{name}.attn")
    pairs = [(first, f"{name}.mid")] if which != "mlp" else []
    pairs += [(f"{name}.mlp", name)] if which != "first" else []
    changes: dict[Site, Change] = {}
    for branch, total in pairs:
        try:
            kept: list[Tensor] = []
            changes[model.sites.named(branch)] = partial(_keep, kept)
            changes[model.sites.named(total)] = partial(_instead, kept)
        except UnknownSite as error:
            raise Unsuited(f"no skip around {branch} in {model.name}: {error}") from error
    with changed(model, changes):
        yield


def _keep(kept: list[Tensor], activations: Activations) -> Activations:
    kept[:] = [activations]
    return activations


def _instead(kept: list[Tensor], activations: Activations) -> Activations:
    return kept[0].reshape(activations.shape)
