"""What can be read off a model for a score: first named without a model, then tied to one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from vitscope.address import Address
from vitscope.arrays import Activations, Scores, widened
from vitscope.dream.pictures import Picture
from vitscope.dream.regions import places_of
from vitscope.errors import BadValue, UnknownName, suggestion
from vitscope.models.vision_model import Site, VisionModel


@dataclass(frozen=True)
class Reading:
    """One readout tied to a model: where to look, and how to make one number an image of it.

    Attributes:
        site: the site that is read.
    """

    site: Site

    @property
    def canvases(self) -> int:
        """How many canvases it compares; 1 where it reads every image by itself."""
        return 1

    @property
    def picture(self) -> Picture | None:
        """The image it compares with, if any."""
        return None

    def read(self, activations: Activations) -> Scores:
        """One number per image, at least in float32."""
        raise NotImplementedError

    def beside(self, reference: Activations) -> Reading:
        """The same, compared with these activations of its picture: one image, or one for each image read."""
        raise NotImplementedError

    def before(self, model: VisionModel) -> Reading:  # noqa: ARG002  # most have nothing before
        """The same readout before the activation function of its units, where the site has one."""
        return self


@runtime_checkable
class Readout(Protocol):
    """One number per image, named without a model."""

    def resolve(self, model: VisionModel) -> Reading:
        """The same readout, tied to a model after checking that the model has it."""
        ...


@dataclass(frozen=True)
class Mean(Reading):
    """Units, averaged over places.

    Attributes:
        places: indices among the site's places; None for its grid, prefix tokens left out, or for all of a
            site without one.
        what: a unit, a run of units, whose mean is taken, or a direction along the unit axis.
    """

    places: tuple[int, ...] | None
    what: int | range | tuple[float, ...]

    def read(self, activations: Activations) -> Scores:
        """The mean over the places."""
        places = self._places(activations)
        if isinstance(self.what, int):
            return widened(places[..., self.what]).mean(dim=1)
        if isinstance(self.what, range):
            return widened(places[..., self.what.start : self.what.stop]).mean(dim=(1, 2))
        places = widened(places)
        return (places @ places.new_tensor(self.what)).mean(dim=1)

    def before(self, model: VisionModel) -> Reading:
        """Read at the site that holds the same units before their activation function."""
        name = self.site.before
        return replace(self, site=model.sites.named(name)) if name else self

    def _places(self, activations: Activations) -> Float[Tensor, "image read unit"]:
        if self.places is None:
            return on_grid(self.site, activations)
        if len(self.places) == 1:
            return activations[:, self.places[0] : self.places[0] + 1]
        return activations[:, list(self.places)]


@dataclass(frozen=True)
class Unit:
    """One unit of a site: its mean over the grid, or over the places that are named."""

    address: Address
    where: str | None = None

    def resolve(self, model: VisionModel) -> Reading:
        """Check the address against the model; `UnknownSite` or `UnknownAddress` where it has no such
        thing.
        """
        site = model.site(self.address)
        return Mean(site, read_places(site, self.address, self.where), self.address.unit or 0)

    def __repr__(self) -> str:
        return f"unit({self.address}{_named(self.where)})"


@dataclass(frozen=True)
class Direction:
    """The activations of a site projected on a vector, which is used as it is and not normalised."""

    address: Address
    vector: tuple[float, ...]
    where: str | None = None

    def resolve(self, model: VisionModel) -> Reading:
        """Check the address and the vector's length against the model."""
        site = model.site(self.address)
        if len(self.vector) != site.units:
            raise BadValue(
                f"a direction at {site.name} needs {site.units} numbers; this one has {len(self.vector)}"
            )
        return Mean(site, read_places(site, self.address, self.where), self.vector)

    def __repr__(self) -> str:
        mark = hashlib.sha256(repr(self.vector).encode()).hexdigest()[:8]
        return f"direction({self.address}{_named(self.where)}, {len(self.vector)} numbers #{mark})"


@dataclass(frozen=True)
class Logit:
    """One output of a classifier, by number or by class name."""

    which: int | str

    def resolve(self, model: VisionModel) -> Reading:
        """Find the class; `UnknownName` names the nearest where the model has no such class."""
        if isinstance(self.which, int):
            return Unit(Address("logits", self.which)).resolve(model)
        classes = model.classes or ()
        if self.which not in classes:
            raise UnknownName(
                f"no class {self.which!r} in {model.name}, which knows {len(classes)} class names."
                f"{suggestion(self.which, classes)} A logit can also be asked for by its number."
            )
        return Unit(Address("logits", classes.index(self.which))).resolve(model)

    def __repr__(self) -> str:
        return f"logit({self.which})"


def read_places(site: Site, address: Address, where: str | None) -> tuple[int, ...] | None:
    """The places that an address or a region names; None where neither names any.

    Raises:
        BadValue: both do, or there is no such region.
        UnknownAddress: the site has no such places.
    """
    if where is None:
        return None if address.place is None else (site.place_index(address.place),)
    if address.place is not None:
        raise BadValue(f"{str(address)!r} names a place already: leave out where={where!r}")
    return places_of(site, where)


def on_grid(site: Site, activations: Activations) -> Float[Tensor, "image read unit"]:
    """The places of the grid without prefix tokens, or all where there is no grid."""
    return activations[:, site.prefix_tokens :] if site.grid else activations


def _named(where: str | None) -> str:
    return "" if where is None else f", {where}"
