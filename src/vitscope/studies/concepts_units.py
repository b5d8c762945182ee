"""What the study `concepts` finds of a model's units, and what it makes of those of two models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from vitscope.meters.reading import Array
from vitscope.meters.share import Share
from vitscope.meters.topk import Exemplars
from vitscope.parts import Scanned
from vitscope.studies.concepts_judge import Judge, entropies, spreads
from vitscope.studies.depth import depths, padded, quartiles
from vitscope.studies.effects import Effect, average, mean_of
from vitscope.studies.matching import matched_difference
from vitscope.studies.result import Row

RARE = 0.05
"""The share of random sets whose classes are closer together than what counts as close."""


@dataclass(frozen=True, eq=False)
class Looked:
    """What the best images of one model's units are like: of each measure an array for every site."""

    name: str
    sites: tuple[str, ...]
    values: dict[str, list[Array]]

    def rows(self, judge: Judge) -> list[Row]:
        """One for each site."""
        found: list[Row] = []
        for place, (site, depth) in enumerate(zip(self.sites, depths(len(self.sites)), strict=True)):
            known = self.values["entropy"][place]
            row: Row = {"part": "site", "site": site, "depth": depth, "units": int(np.isfinite(known).sum())}
            row["left_out"] = len(known) - row["units"]
            row |= quartiles("sharpness", self.values["sharpness"][place])
            for name in judge.measures:
                values = self.values[name][place]
                values = values[np.isfinite(values)]
                row |= mean_of(values).row(name)
                row[f"{name}_random"] = float(np.nanmean(judge.random[name]))
                rare = float(np.nanquantile(judge.random[name], RARE))
                row |= Share(int((values < rare).sum()), len(values)).row(f"{name}_below")
            found.append(row)
        return found

    def arrays(self) -> dict[str, Array]:
        """Of every unit; rows of sites with fewer units end in NaN."""
        values = {name: padded(every) for name, every in self.values.items()}
        return {"sites": np.array(self.sites), **values}


def look_at(name: str, scanned: Scanned, judge: Judge, *, rank: str) -> Looked:
    """What the k best images of every unit are like, as the judge sees them.

    Args:
        name: of the model.
        scanned: its exemplars and moments.
        judge: of the same images.
        rank: what exemplars are ranked by, "mean" or "maximum".
    """
    boards, moments = scanned[f"topk_{rank}"], scanned["moments"]
    labels = {site: _labels(board, judge) for site, board in boards.items()}
    values = {"entropy": [entropies(of) for of in labels.values()]}
    if judge.apart is not None:
        values["distance"] = [spreads(of, judge.apart) for of in labels.values()]
    values["sharpness"] = [
        sharpness(
            board.value,
            moments[site].mean,
            moments[site].variance,
            whole=np.asarray((labels[site] >= 0).all(axis=1)),
        )
        for site, board in boards.items()
    ]
    return Looked(name, tuple(boards), values)


def _labels(board: Exemplars, judge: Judge) -> Int[Array, "unit k"]:
    """Of every exemplar; -1 where there is none, or it has no label."""
    found = np.full(board.value.shape, -1, np.int64)
    for unit, count in enumerate(board.count.tolist()):
        for place in range(count):
            found[unit, place] = judge.labels.get(board.image[unit, place].tobytes(), -1)
    return found


def sharpness(
    best: Float[Array, "unit k"],
    mean: Float[Array, " unit"],
    variance: Float[Array, " unit"],
    *,
    whole: Array,
) -> Float[Array, " unit"]:
    """By how many of its standard deviations, over all places of all images, the mean of a unit's k best
    values lies above its mean; NaN where k are not there, or it never changes."""
    found = np.full(len(best), np.nan)
    good = whole & (variance > 0)
    found[good] = (best[good].astype(np.float64).mean(axis=1) - mean[good]) / np.sqrt(variance[good])
    return found


def matched(one: Looked, first: Looked) -> list[Row]:
    """Of every site of a model, how much more mixed its units are than those of the first model at the
    nearest depth, and at equal sharpness."""
    rows: list[Row] = []
    effects: dict[str, list[Effect]] = {}
    theirs = np.array(depths(len(first.sites)))
    for place, (site, depth) in enumerate(zip(one.sites, depths(len(one.sites)), strict=True)):
        there = int(np.abs(theirs - depth).argmin())
        row: Row = {"part": "matched", "against": first.name, "site": site, "depth": depth}
        row["against_site"] = first.sites[there]
        for name in one.values.keys() - {"sharpness"}:
            effect, row["units"] = matched_difference(
                one.values[name][place],
                one.values["sharpness"][place],
                first.values[name][there],
                first.values["sharpness"][there],
            )
            effects.setdefault(name, []).append(effect)
            row |= effect.row(f"{name}_difference")
        rows.append(row)
    whole: Row = {"part": "matched_all", "against": first.name, "units": sum(row["units"] for row in rows)}
    for name, of in effects.items():
        whole |= average(of).row(f"{name}_difference")
    return [*rows, whole]
