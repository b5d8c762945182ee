"""One model's few-shot probes: fitted, their strengths chosen, and tested, each on images of its own.

Once for every draw of images, and what the draws say together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median_low

import numpy as np
from jaxtyping import Float64, Int64

from vitscope.data.shots import Shots
from vitscope.meters.probe_sums import Evidence, ProbeSums
from vitscope.meters.readout_accuracy import ReadoutAccuracy, ReadoutShares
from vitscope.meters.readouts import Readout, readings_of
from vitscope.models.vision_model import Site
from vitscope.parts import Scanned
from vitscope.studies.result import Array, Row
from vitscope.studies.scanner import Scanner


@dataclass(frozen=True)
class Probed:
    """What was found for one model.

    Attributes:
        strengths: of every readout, the strength that was chosen.
        shares: of every readout, accuracy on the images for testing.
        scans: what was seen to learn, to choose strengths, and to test.
        broken: sites with activations that are not finite.
    """

    strengths: Mapping[Readout, float]
    shares: Mapping[Readout, ReadoutShares]
    scans: tuple[Scanned, ...]
    broken: tuple[str, ...]

    @property
    def sites(self) -> list[str]:
        """Their names, in forward order."""
        return list(dict.fromkeys(readout.site for readout in self.shares))

    def readings(self, site: str) -> list[Readout]:
        """The readouts of a site that are no single places."""
        return [each for each in self.shares if each.site == site and each.cell is None]

    def cells(self, site: str) -> dict[tuple[int, int], float]:
        """Accuracy of the probes of single places of a site, in per cent, by row and column of the grid."""
        found = ((each.cell, share) for each, share in self.shares.items() if each.site == site)
        return {cell: share.share().value for cell, share in found if cell is not None}

    def maps(self) -> Float64[Array, "site row column"]:
        """Accuracy at single places, of every site; NaN where a site has none."""
        cells = [self.cells(site) for site in self.sites]
        rows, columns = (sorted({cell[axis] for of in cells for cell in of}) for axis in (0, 1))
        values = [[[of.get((row, column), np.nan) for column in columns] for row in rows] for of in cells]
        return np.array(values, np.float64).reshape(len(cells), len(rows), len(columns))


@dataclass(frozen=True)
class Several:
    """What several draws of images found for one model: means, and how far draws lie apart.

    Attributes:
        draws: at least one, of the same readouts.
    """

    draws: tuple[Probed, ...]

    @property
    def sites(self) -> list[str]:
        """Their names, in forward order."""
        return self.draws[0].sites

    @property
    def broken(self) -> list[str]:
        """Sites with activations that are not finite, in any draw."""
        return list(dict.fromkeys(site for draw in self.draws for site in draw.broken))

    def readings(self, site: str) -> list[Readout]:
        """The readouts of a site that are no single places."""
        return self.draws[0].readings(site)

    def row(self, readout: Readout) -> Row:
        """Columns of one readout: top-1, the mean over draws of its intervals, and the middle strength."""
        shares = [draw.shares[readout].share() for draw in self.draws]
        low, high = np.mean([share.interval for share in shares], axis=0)
        return {
            **over_draws([share.value for share in shares]),
            "top1_low": float(low),
            "top1_high": float(high),
            "strength": median_low(draw.strengths[readout] for draw in self.draws),
        }

    def places(self, site: str) -> Row:
        """Columns of the single places of a site: the mean over them; nothing where it has none."""
        cells = [list(draw.cells(site).values()) for draw in self.draws]
        if not cells[0]:
            return {}
        nothing = dict.fromkeys(("top1_low", "top1_high", "strength"))
        return {**over_draws([float(np.mean(own)) for own in cells]), **nothing}

    def maps(self) -> Float64[Array, "draw site row column"]:
        """Accuracy at single places, of every draw and site; NaN where a site has none."""
        return np.stack([draw.maps() for draw in self.draws])


def over_draws(values: Sequence[float]) -> Row:
    """Mean and standard deviation (n - 1) of what draws found; no deviation of a single one."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"top1": float(np.mean(values)), "top1_sd": spread}


def probes_of(sites: Sequence[Site], tokens: int) -> tuple[Readout, ...]:
    """All readings of all sites, and of each `tokens` rows and columns of single places, or all there are.

    Places are those of the last grid, to which maps of earlier sites are averaged, as the paper does.
    """
    grid = next((site.grid for site in reversed(sites) if site.grid), (1, 1))
    spread = [np.linspace(0, side - 1, min(tokens, side)).round().astype(int).tolist() for side in grid]
    cells = [f"{row},{column}" for row in spread[0] for column in spread[1]]
    return tuple(
        Readout(site.name, each, grid)
        for site in sites
        for each in (*readings_of(site), *(cells if site.grid else ()))
    )


def probed(
    scanned: Scanner, parts: Shots, readouts: tuple[Readout, ...], *, strengths: tuple[float, ...]
) -> Probed:
    """Fit to some images, choose strengths on others, fit to both, test on the rest: each image is seen once.

    Of strengths that are right equally often the middle one is chosen: few images tell few apart.

    Args:
        scanned: scans of the model.
        parts: the images.
        readouts: what is probed.
        strengths: to choose from, ascending.
    """
    sums = ProbeSums(readouts, parts.classes)
    learnt = scanned("learning", parts.fit, [sums])
    evidence: Mapping[Readout, Evidence] = learnt["probe_sums"]
    judges = {readout: partial(own.ridge().right, strengths=strengths) for readout, own in evidence.items()}
    tuned = scanned("held out", parts.tune, [sums, ReadoutAccuracy(judges, parts.classes)])
    chosen = {readout: _middle(strengths, each.right) for readout, each in tuned["readout_accuracy"].items()}
    judges = {
        readout: partial(own.plus(tuned["probe_sums"][readout]).ridge().right, strengths=(chosen[readout],))
        for readout, own in evidence.items()
    }
    tested = scanned("testing", parts.test, [ReadoutAccuracy(judges, parts.classes)])
    most = max(own.images for own in evidence.values())
    broken = dict.fromkeys(readout.site for readout, own in evidence.items() if own.images < most)
    return Probed(chosen, tested["readout_accuracy"], (learnt, tuned, tested), tuple(broken))


def _middle(strengths: Sequence[float], right: Int64[Array, " strength"]) -> float:
    best = np.flatnonzero(right == right.max())
    return strengths[int(best[len(best) // 2])]
