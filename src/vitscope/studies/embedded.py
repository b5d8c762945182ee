"""Patches of one image on a plane (t-SNE), each map with a number from the original space beside it.

A map shows that points can be drawn apart, never that they lie apart: distances and sizes in it mean little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int
from matplotlib.figure import Figure

from vitscope.house import COLOURS, GROUND, MARKS, MUTED, house, panels_of
from vitscope.meters.grouping import NONE, chance
from vitscope.meters.reading import Array

PERPLEXITY, STEPS, RATE = 30, 1000, 200.0
"""The defaults of scikit-learn in 2022, which the authors' notebook uses."""
SIZE = 22
"""Of a mark, in square points; a quarter of it for patches of no object."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """Some patches on a plane.

    Attributes:
        points: where each patch lies.
        objects: which object each belongs to, -1 for none.
        purity: of neighbours in the original space; see `meters.grouping`.
    """

    points: Float[Array, "place 2"]
    objects: Int[Array, " place"]
    purity: float


def embedded(values: Float[Array, "token unit"], *, seed: int) -> Float64[Array, "token 2"]:
    """Tokens on a plane by t-SNE (van der Maaten and Hinton 2008), from a random start.

    Equal seeds make equal maps. Of fewer than 91 tokens the perplexity is a third of the others.
    """
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(values) - 1) / 3)
    method = TSNE(
        2,
        perplexity=perplexity,
        max_iter=STEPS,
        learning_rate=RATE,
        init="random",
        random_state=seed,
        n_jobs=1,
    )
    found: Array = method.fit_transform(values.astype(np.float64)).astype(np.float64)
    return found


def scattered(panels: Mapping[str, Embedded]) -> Figure:
    """A map a title: colour and mark say the object; small grey points belong to none.

    Beneath each title stands the purity of neighbours in the original space, and that of chance.

    Raises:
        BadValue: there is none.
    """
    titles = {
        f"{title}\nneighbours {one.purity:.2f}, chance {chance(one.objects[one.objects != NONE]):.2f}": one
        for title, one in panels.items()
    }
    with house():
        figure, axes = panels_of(list(titles), x_label="", y_label="", panel=(3.4, 3.4), shared=False)
        for place, one in zip(axes, titles.values(), strict=True):
            place.set_axis_off()
            own = one.points[one.objects == NONE]
            place.scatter(own[:, 0], own[:, 1], color=MUTED, s=SIZE / 4, linewidths=0)
            for which in np.unique(one.objects[one.objects != NONE]):
                own = one.points[one.objects == which]
                look = int(which)
                place.scatter(
                    own[:, 0],
                    own[:, 1],
                    color=COLOURS[look % len(COLOURS)],
                    marker=MARKS[look % len(MARKS)],
                    s=SIZE,
                    linewidths=0.4,
                    edgecolors=GROUND,
                )
    return figure
