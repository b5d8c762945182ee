"""What a dream maximises: weighted sums of units, directions and logits, as frozen values.

>>> 0.5 * unit("blocks.5.ffn:40") - unit("blocks.5.ffn:41@center")
0.5*unit(blocks.5.ffn:40) - 1.0*unit(blocks.5.ffn:41@center)

An objective gives one score per image and never reduces over images. Scores are read push-style: `bind`
ties an objective to a model, and the bound objective's `read` is called with the activations of each of its
sites, while they are valid.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.address import Address
from vitscope.arrays import Activations, Scores
from vitscope.errors import BadAddress, BadValue, UnknownName, suggestion
from vitscope.models.vision_model import Site, VisionModel


@dataclass(frozen=True)
class Reading:
    """One readout tied to a model: where to look and what to take.

    Attributes:
        site: the site that is read.
        place: index among the site's places; None for the mean over its grid, prefix tokens left out.
        what: the unit's index, or a direction along the unit axis.
    """

    site: Site
    place: int | None
    what: int | tuple[float, ...]

    def read(self, activations: Activations) -> Scores:
        """One number per image, at least in float32."""
        places = self._places(activations)
        if isinstance(self.what, int):
            found = places[..., self.what]
            found = found.to(torch.promote_types(found.dtype, torch.float32))
        else:
            places = places.to(torch.promote_types(places.dtype, torch.float32))
            found = places @ places.new_tensor(self.what)
        return found.mean(dim=1)

    def _places(self, activations: Activations) -> Float[Tensor, "image read unit"]:
        if self.place is not None:
            return activations[:, self.place : self.place + 1]
        return activations[:, self.site.prefix_tokens :] if self.site.grid else activations


@runtime_checkable
class Readout(Protocol):
    """One number per image, named without a model."""

    def resolve(self, model: VisionModel) -> Reading:
        """The same readout, tied to a model after checking that the model has it."""
        ...


@dataclass(frozen=True)
class Unit:
    """One unit of a site: its mean over the grid, or its value at the address's place."""

    address: Address

    def resolve(self, model: VisionModel) -> Reading:
        """Check the address against the model; `UnknownSite` or `UnknownAddress` where it has no such
        thing.
        """
        site = model.site(self.address)
        return Reading(site, _place(site, self.address), self.address.unit or 0)

    def __repr__(self) -> str:
        return f"unit({self.address})"


@dataclass(frozen=True)
class Direction:
    """The activations of a site projected on a vector, which is used as it is and not normalised."""

    address: Address
    vector: tuple[float, ...]

    def resolve(self, model: VisionModel) -> Reading:
        """Check the address and the vector's length against the model."""
        site = model.site(self.address)
        if len(self.vector) != site.units:
            raise BadValue(
                f"a direction at {site.name} needs {site.units} numbers; this one has {len(self.vector)}"
            )
        return Reading(site, _place(site, self.address), self.vector)

    def __repr__(self) -> str:
        mark = hashlib.sha256(repr(self.vector).encode()).hexdigest()[:8]
        return f"direction({self.address}, {len(self.vector)} numbers #{mark})"


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


Term: TypeAlias = tuple[float, Readout]
"""A weight and what it weighs."""


@dataclass(frozen=True, repr=False)
class Objective:
    """A weighted sum of readouts. Add and subtract objectives; multiply and divide them by numbers."""

    terms: tuple[Term, ...]

    @property
    def text(self) -> str:
        """The address where the objective is one plain unit, otherwise the formula. Random numbers are
        keyed by it.
        """
        if len(self.terms) == 1 and self.terms[0][0] == 1:
            readout = self.terms[0][1]
            return str(readout.address) if isinstance(readout, Unit) else repr(readout)
        return repr(self)

    def bind(self, model: VisionModel) -> BoundObjective:
        """The objective tied to a model, ready to read its sites.

        Raises:
            UnknownSite, UnknownAddress, UnknownName, BadValue: the model has no such site, unit, place or
                class, or a direction has another length than the site.
        """
        return BoundObjective(
            self.text, tuple((weight, readout.resolve(model)) for weight, readout in self.terms)
        )

    def sites(self, model: VisionModel) -> tuple[Site, ...]:
        """The sites it reads, each once, in the order of the terms."""
        return self.bind(model).sites

    def score(self, model: VisionModel, activations: Mapping[str, Activations]) -> Scores:
        """The score of every image, from activations by site name."""
        bound = self.bind(model)
        return torch.stack([bound.read(site, activations[site.name]) for site in bound.sites]).sum(dim=0)

    def __add__(self, other: Objective) -> Objective:
        return Objective(self.terms + other.terms) if isinstance(other, Objective) else NotImplemented

    def __sub__(self, other: Objective) -> Objective:
        return self + -other if isinstance(other, Objective) else NotImplemented

    def __mul__(self, factor: float | int) -> Objective:
        if not isinstance(factor, (int, float)):
            return NotImplemented
        if not math.isfinite(factor):
            raise BadValue(f"an objective's weight must be finite, not {factor}")
        return Objective(tuple((weight * factor, readout) for weight, readout in self.terms))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float | int) -> Objective:
        if not isinstance(divisor, (int, float)):
            return NotImplemented
        if divisor == 0:
            raise BadValue(f"cannot divide {self!r} by zero")
        return self * (1 / divisor)

    def __neg__(self) -> Objective:
        return self * -1

    def __repr__(self) -> str:
        if len(self.terms) == 1 and self.terms[0][0] == 1:
            return repr(self.terms[0][1])
        first, *rest = [(weight, f"{abs(weight)}*{readout!r}") for weight, readout in self.terms]
        text = f"-{first[1]}" if first[0] < 0 else first[1]
        return text + "".join(f" {'-' if weight < 0 else '+'} {term}" for weight, term in rest)


@dataclass(frozen=True)
class BoundObjective:
    """An objective tied to a model.

    Attributes:
        text: the address or the formula.
        terms: weights and readings.
    """

    text: str
    terms: tuple[tuple[float, Reading], ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites it reads, each once."""
        return tuple(dict.fromkeys(reading.site for _, reading in self.terms))

    def read(self, site: Site, activations: Activations) -> Scores:
        """What the terms at one site add to every image's score."""
        parts = [weight * reading.read(activations) for weight, reading in self.terms if reading.site == site]
        return torch.stack(parts).sum(dim=0)

    def before(self, model: VisionModel) -> BoundObjective:
        """The same objective, read before the activation function of its units, where their site has one."""

        def earlier(reading: Reading) -> Reading:
            name = reading.site.before
            return replace(reading, site=model.sites.named(name)) if name else reading

        return replace(self, terms=tuple((weight, earlier(reading)) for weight, reading in self.terms))


def unit(address: str | Address) -> Objective:
    """One unit: its mean over the grid places, prefix tokens left out (Ghiasi et al. 2022, eq. 1, as their
    code reduces it).

    With `@place` its value there; a site without a grid is read as a vector.

    Raises:
        BadAddress: the text is not an address, or names no unit.

    >>> unit("blocks.5.ffn:40")
    unit(blocks.5.ffn:40)
    """
    parsed = Address.parse(address)
    if parsed.unit is None:
        raise BadAddress(f"{str(parsed)!r} names a site but no unit: say which, such as {parsed.site}:0")
    return Objective(((1.0, Unit(parsed)),))


def direction(site: str | Address, vector: Sequence[float | int] | Float[Tensor, " unit"]) -> Objective:
    """The projection of a site's activations on a vector, averaged over the grid or read at the address's
    `@place`.

    Raises:
        BadAddress: the address names a unit as well.
        BadValue: a number is not finite.
    """
    parsed = Address.parse(site)
    if parsed.unit is not None:
        raise BadAddress(f"a direction spans all units of a site: write {parsed.site!r}, not {str(parsed)!r}")
    numbers = tuple(float(number) for number in vector)
    if not all(map(math.isfinite, numbers)):
        raise BadValue(f"a direction at {parsed} has numbers that are not finite")
    return Objective(((1.0, Direction(parsed, numbers)),))


def logit(which: int | str) -> Objective:
    """One output of a classifier, by number or by class name."""
    return Objective(((1.0, Logit(which)),))


def _place(site: Site, address: Address) -> int | None:
    return None if address.place is None else site.place_index(address.place)
