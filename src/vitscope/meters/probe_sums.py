"""What probes are fitted to: of many readouts, labelled vectors or their sums, whichever is smaller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from vitscope.errors import BadValue
from vitscope.meters.meter import Arrays
from vitscope.meters.reading import Array, Reading
from vitscope.meters.readouts import Readout, read_off, sites_of
from vitscope.meters.ridge import Ridge, Sums, dual, primal
from vitscope.models.vision_model import Site, Sites


class Evidence:
    """The labelled vectors of one readout: kept while they are at most as many as their units, then summed.

    Args:
        units: length of a vector.
        classes: how many classes there are.
    """

    def __init__(self, units: int, classes: int) -> None:
        self.units, self.classes = units, classes
        self.rows: Float32[Array, "image unit"] = np.zeros((0, units), np.float32)
        self.columns: Int64[Array, " image"] = np.zeros(0, np.int64)
        self.summed = Sums.of(np.zeros((0, units)), np.zeros(0, np.int64), classes)

    @property
    def images(self) -> int:
        """How many vectors were taken in."""
        return self.summed.images + len(self.rows)

    @property
    def sums(self) -> Sums:
        """Of all vectors."""
        return self.summed.plus(Sums.of(self.rows, self.columns, self.classes))

    def take(self, rows: Float[Array, "image unit"], columns: Int[Array, " image"]) -> None:
        """Take in some more vectors and their classes, numbers from 0; without those not finite."""
        finite = np.isfinite(rows).all(axis=1)
        self.rows = np.concatenate([self.rows, rows[finite].astype(np.float32)])
        self.columns = np.concatenate([self.columns, columns[finite]])
        if len(self.rows) > self.units:
            self.summed = self.sums
            self.rows, self.columns = self.rows[:0], self.columns[:0]

    def plus(self, other: Evidence) -> Evidence:
        """What both have taken in."""
        both = Evidence(self.units, self.classes)
        both.summed = self.summed.plus(other.summed)
        both.take(np.concatenate([self.rows, other.rows]), np.concatenate([self.columns, other.columns]))
        return both

    def ridge(self) -> Ridge:
        """The fit: from the vectors themselves where they are all here, otherwise from the sums.

        Raises:
            BadValue: there is no vector.
        """
        if not self.images:
            raise BadValue("a probe needs at least one labelled image whose activations are finite")
        if self.summed.images:
            return primal(self.sums)
        return dual(self.rows, self.columns, self.classes)


@dataclass(frozen=True)
class ProbeSums:
    """Labelled vectors of readouts, as probes want them.

    Of one readout at most units x units numbers are kept, of 8 bytes, or as many vectors, of 4 bytes a unit:
    0.6 MB for 384 units.

    >>> scan(model, source, [ProbeSums(readouts, classes=(0, 1))])["probe_sums"]   # doctest: +SKIP

    Args:
        readouts: which vectors.
        classes: the labels that count; images of others are passed over.
    """

    readouts: tuple[Readout, ...]
    classes: tuple[int, ...] = field(repr=False)
    name = "probe_sums"

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The sites of the readouts."""
        return sites_of(self.readouts, sites)

    def start(self, sites: Sequence[Site]) -> ProbeSumsState:
        """A state that has seen nothing."""
        units = {site.name: site.units for site in sites}
        return ProbeSumsState(
            self, {each: Evidence(units[each.site], len(self.classes)) for each in self.readouts}
        )

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> ProbeSumsState:
        """The state that `ProbeSumsState.arrays` described."""
        state = self.start(sites)
        for readout, own in state.evidence.items():
            own.rows, own.columns = (arrays[f"{readout.name}/{what}"] for what in ("rows", "columns"))
            own.summed = Sums(*(arrays[f"{readout.name}/{what}"] for what in ("counts", "totals", "scatter")))
        return state


class ProbeSumsState:
    """The evidence so far, by readout."""

    def __init__(self, meter: ProbeSums, evidence: Mapping[Readout, Evidence]) -> None:
        self.meter, self.evidence = meter, evidence

    def read(self, reading: Reading) -> None:
        """Take in one batch at one site."""
        for readout, vectors, columns in read_off(reading, self.evidence, self.meter.classes):
            self.evidence[readout].take(vectors, columns)

    def merge(self, other: ProbeSumsState) -> ProbeSumsState:
        """What both have seen."""
        return ProbeSumsState(
            self.meter, {readout: own.plus(other.evidence[readout]) for readout, own in self.evidence.items()}
        )

    def arrays(self) -> Arrays:
        """Everything, as "<site>@<tokens>/<what>"."""
        found: Arrays = {}
        for readout, own in self.evidence.items():
            order = np.lexsort((*own.rows.T[::-1], own.columns))
            sums = own.summed
            parts = {"counts": sums.counts, "totals": sums.totals, "scatter": sums.scatter}
            parts |= {"rows": own.rows[order], "columns": own.columns[order]}
            found |= {f"{readout.name}/{what}": array for what, array in parts.items()}
        return found

    def result(self) -> Mapping[Readout, Evidence]:
        """The evidence, by readout."""
        return self.evidence
