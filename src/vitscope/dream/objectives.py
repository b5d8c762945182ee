"""What a dream maximises: weighted sums of readouts, as frozen values.

>>> 0.5 * unit("blocks.5.ffn:40") - unit("blocks.5.ffn:41@center")
0.5*unit(blocks.5.ffn:40) - 1.0*unit(blocks.5.ffn:41@center)

An objective gives one score per image and never reduces over images. Scores are read push-style: `bind`
ties an objective to a model, and the bound objective's `read` is called with the activations of each of its
sites, while they are valid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.address import Address
from vitscope.arrays import Activations, Scores
from vitscope.dream.pictures import ImageLike, Picture, picture
from vitscope.dream.readouts import Direction, Logit, Reading, Readout, Unit
from vitscope.errors import BadAddress, BadValue
from vitscope.models.vision_model import Site, VisionModel

Term: TypeAlias = tuple[float, Readout]
"""A weight and what it weighs."""

Kind = TypeVar("Kind", bound="Objective")


@dataclass(frozen=True, repr=False)
class Objective:
    """A weighted sum of readouts. Add and subtract objectives; multiply and divide them by numbers.

    Attributes:
        terms: weights and readouts.
        begin: the image that an ascent starts from; None for noise.
    """

    terms: tuple[Term, ...]
    begin: Picture | None = None

    @property
    def text(self) -> str:
        """The address where the objective is one plain unit, otherwise the formula. Random numbers are
        keyed by it.
        """
        if len(self.terms) == 1 and self.terms[0][0] == 1 and self.begin is None:
            readout = self.terms[0][1]
            plain = isinstance(readout, Unit) and readout.where is None
            return str(readout.address) if isinstance(readout, Unit) and plain else repr(readout)
        return repr(self)

    def bind(self, model: VisionModel) -> BoundObjective:
        """The objective tied to a model, ready to read its sites.

        Raises:
            UnknownSite, UnknownAddress, UnknownName, BadValue: the model has no such site, unit, place or
                class, a direction has another length than the site, or terms want different numbers of
                canvases.
        """
        terms = tuple((weight, readout.resolve(model)) for weight, readout in self.terms)
        counts = sorted({reading.canvases for _, reading in terms} - {1})
        if len(counts) > 1:
            several = " and ".join(f"{count} canvases" for count in counts)
            raise BadValue(f"{several} cannot be climbed as one: {self!r}")
        return BoundObjective(self.text, terms, self.begin)

    def sites(self, model: VisionModel) -> tuple[Site, ...]:
        """The sites it reads, each once, in the order of the terms."""
        return self.bind(model).sites

    def score(self, model: VisionModel, activations: Mapping[str, Activations]) -> Scores:
        """The score of every image, from activations by site name."""
        bound = self.bind(model)
        return torch.stack([bound.read(site, activations[site.name]) for site in bound.sites]).sum(dim=0)

    def starting_from(self: Kind, image: ImageLike) -> Kind:
        """The same objective, climbed from a natural image instead of noise.

        Raises:
            MissingPath, BadValue: there is no such image.
        """
        return replace(self, begin=picture(image))

    def __add__(self: Kind, other: Objective) -> Kind:
        if not isinstance(other, Objective):
            return NotImplemented
        if self.begin and other.begin and self.begin != other.begin:
            raise BadValue(f"an objective starts from one image, not from {self.begin} and {other.begin}")
        return replace(self, terms=self.terms + other.terms, begin=self.begin or other.begin)

    def __sub__(self: Kind, other: Objective) -> Kind:
        return self + -other if isinstance(other, Objective) else NotImplemented

    def __mul__(self: Kind, factor: float | int) -> Kind:
        if not isinstance(factor, (int, float)):
            return NotImplemented
        if not math.isfinite(factor):
            raise BadValue(f"an objective's weight must be finite, not {factor}")
        return replace(self, terms=tuple((weight * factor, readout) for weight, readout in self.terms))

    __rmul__ = __mul__

    def __truediv__(self: Kind, divisor: float | int) -> Kind:
        if not isinstance(divisor, (int, float)):
            return NotImplemented
        if divisor == 0:
            raise BadValue(f"cannot divide {self!r} by zero")
        return self * (1 / divisor)

    def __neg__(self: Kind) -> Kind:
        return self * -1

    def __repr__(self) -> str:
        start = f" starting from {self.begin}" if self.begin else ""
        if len(self.terms) == 1 and self.terms[0][0] == 1:
            return f"{self.terms[0][1]!r}{start}"
        first, *rest = [(weight, f"{abs(weight)}*{readout!r}") for weight, readout in self.terms]
        text = f"-{first[1]}" if first[0] < 0 else first[1]
        return text + "".join(f" {'-' if weight < 0 else '+'} {term}" for weight, term in rest) + start


@dataclass(frozen=True)
class BoundObjective:
    """An objective tied to a model.

    Attributes:
        text: the address or the formula.
        terms: weights and readings.
        begin: the image that an ascent starts from; None for noise.
    """

    text: str
    terms: tuple[tuple[float, Reading], ...]
    begin: Picture | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites it reads, each once."""
        return tuple(dict.fromkeys(reading.site for _, reading in self.terms))

    @property
    def canvases(self) -> int:
        """How many canvases it has; more than one where a reading compares them."""
        return max(reading.canvases for _, reading in self.terms)

    @property
    def apart(self) -> tuple[BoundObjective, ...]:
        """What each canvas is to show by itself, without the readings that compare canvases. Random numbers
        are keyed by the texts of these.
        """
        if self.canvases == 1:
            return (self,)
        terms = tuple((weight, reading) for weight, reading in self.terms if reading.canvases == 1)
        texts = [f"{self.text} #{canvas}" for canvas in range(1, self.canvases + 1)]
        return tuple(BoundObjective(text, terms, self.begin) for text in texts)

    def read(self, site: Site, activations: Activations) -> Scores:
        """What the terms at one site add to every image's score; the images of one canvas are in a row."""
        parts = [weight * reading.read(activations) for weight, reading in self.terms if reading.site == site]
        return torch.stack(parts).sum(dim=0)

    def before(self, model: VisionModel) -> BoundObjective:
        """The same objective, read before the activation function of its units, where their site has one."""
        return replace(self, terms=tuple((weight, reading.before(model)) for weight, reading in self.terms))

    @property
    def pictures(self) -> dict[Picture, tuple[Site, ...]]:
        """The images it compares with, and where."""
        found: dict[Picture, tuple[Site, ...]] = {}
        for _, reading in self.terms:
            if reading.picture:
                found[reading.picture] = (*found.get(reading.picture, ()), reading.site)
        return found

    def beside(self, seen: Mapping[tuple[Picture, Site], Activations]) -> BoundObjective:
        """The same objective, comparing with these activations of its pictures."""

        def with_them(reading: Reading) -> Reading:
            found = seen.get((reading.picture, reading.site)) if reading.picture else None
            return reading if found is None else reading.beside(found)

        return replace(self, terms=tuple((weight, with_them(reading)) for weight, reading in self.terms))


def unit(address: str | Address, *, where: str | None = None) -> Objective:
    """One unit: its mean over the grid places, prefix tokens left out (Ghiasi et al. 2022, eq. 1, as their
    code reduces it).

    With `@place` its value there; a site without a grid is read as a vector.

    Args:
        address: the unit.
        where: a region to average over instead: "left", "top", a box "2:5,0:4", ... (`regions.places_of`).

    Raises:
        BadAddress: the text is not an address, or names no unit.

    >>> unit("blocks.5.ffn:40")
    unit(blocks.5.ffn:40)
    """
    return of(Unit(_with_unit(address), where))


def channel(address: str | Address) -> Objective:
    """One unit over its whole grid, whatever place the address names: what lucid calls a channel.

    >>> channel("blocks.5.ffn:40@3,4")
    unit(blocks.5.ffn:40)
    """
    return of(Unit(replace(_with_unit(address), place=None)))


def direction(
    site: str | Address, vector: Sequence[float | int] | Float[Tensor, " unit"], *, where: str | None = None
) -> Objective:
    """The projection of a site's activations on a vector, averaged over the grid, over a region of it, or
    read at the address's `@place`.

    Raises:
        BadAddress: the address names a unit as well.
        BadValue: a number is not finite.
    """
    parsed = without_unit(site, "a direction spans all units of a site")
    numbers = tuple(float(number) for number in vector)
    if not all(map(math.isfinite, numbers)):
        raise BadValue(f"a direction at {parsed} has numbers that are not finite")
    return of(Direction(parsed, numbers, where))


def logit(which: int | str) -> Objective:
    """One output of a classifier, by number or by class name."""
    return of(Logit(which))


def interpolate(one: Objective, other: Objective, count: int) -> list[Objective]:
    """Objectives from one to another, evenly mixed; the ends are the two themselves (lucid's
    `channel_interpolate`, for any objectives).

    Raises:
        BadValue: `count` is less than 2.

    >>> interpolate(unit("blocks.5.ffn:40"), unit("blocks.5.ffn:41"), 3)[1]
    0.5*unit(blocks.5.ffn:40) + 0.5*unit(blocks.5.ffn:41)
    """
    if count < 2:
        raise BadValue(f"count must be at least 2, the ends, not {count}")
    shares = [step / (count - 1) for step in range(1, count - 1)]
    return [one, *((1 - share) * one + share * other for share in shares), other]


def of(readout: Readout) -> Objective:
    """The objective that is just this readout."""
    return Objective(((1.0, readout),))


def without_unit(site: str | Address, why: str) -> Address:
    """An address that must not name a unit.

    Raises:
        BadAddress: it does.
    """
    parsed = Address.parse(site)
    if parsed.unit is not None:
        plain = str(replace(parsed, unit=None))
        raise BadAddress(f"{why}: write {plain!r}, not {str(parsed)!r}")
    return parsed


def _with_unit(address: str | Address) -> Address:
    parsed = Address.parse(address)
    if parsed.unit is None:
        raise BadAddress(f"{str(parsed)!r} names a site but no unit: say which, such as {parsed.site}:0")
    return parsed
