"""Do the images that excite a unit share a class, or an idea across classes? (Ghiasi et al. 2022, CLIP)

Rows with `part` "site", one for each site; with several models also "matched", one for each site of every
further model, compared with the first, and "matched_all", over the sites. Arrays: `sites` [site]; `entropy`,
`distance`, `sharpness` [site][unit]; `random_entropy`, `random_distance` [set].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from vitscope.data.source import ImageSource
from vitscope.errors import BadValue, UnknownSite, Unsuited, suggestion
from vitscope.meters.meter import Meter
from vitscope.meters.moments import Moments
from vitscope.meters.reading import Array
from vitscope.meters.topk import TopK
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.plots import Line, lines
from vitscope.scan import scan
from vitscope.studies.concepts_judge import Judge, judge_of
from vitscope.studies.concepts_units import Looked, look_at, matched
from vitscope.studies.depth import PATTERNS, first_pattern
from vitscope.studies.result import Result
from vitscope.studies.study import Findings, Models, OnProgress, Study
from vitscope.studies.taxonomy import RELATIONS, read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(
    models: Models,
    source: ImageSource,
    *,
    sites: Sequence[str] = PATTERNS,
    k: int = 50,
    rank: str = "mean",
    wordnet: str = "",
    relation: str = "path",
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """How mixed the classes of every unit's best images are, and how far apart in meaning.

    Args:
        models: the models; one without such sites is left out, with a note.
        source: labelled images; their labels need not be the models' classes.
        sites: patterns; of each model the first that matches is used.
        k: how many images of each unit.
        rank: what they are ranked by: the "mean" or the "maximum" of the unit over places.
        wordnet: a CSV of hypernyms with the columns child and parent (`taxonomy.py`). "" takes the WordNet
            of nltk where it is installed with its corpus; where it is not, only entropy is reported.
        relation: "path" or "wu_palmer".
        seed: of the random sets.
        batch_size: images a forward pass.
        on_progress: told how many images of a model are done.

    Raises:
        BadValue: k below 2, no pattern, an unknown rank or relation, or a damaged table.
        Unsuited: no model has such sites, or there are fewer than k labelled images.
    """
    _check(source, sites, k=k, relation=relation)
    table = read_table(wordnet) if wordnet else None
    looked: list[Looked] = []
    notes: list[str] = []
    scanned: Scanned | None = None
    judge: Judge | None = None
    for name, model in models.items():
        try:
            pattern = first_pattern(model, sites)
        except UnknownSite:
            notes.append(f"{name} is left out: it has no sites like {' or '.join(sites)}")
            continue
        told = partial(on_progress, name) if on_progress else None
        meters: list[Meter] = [TopK(pattern, k=k, rank=rank), Moments(pattern)]
        scanned = scan(model, source, meters, batch_size=batch_size, on_progress=told)
        judge = judge or judge_of(source, scanned.images, table, relation=relation, k=k, seed=seed)
        looked.append(look_at(name, scanned, judge, rank=rank))
    if scanned is None or judge is None:
        raise Unsuited(f"no model has sites like {' or '.join(sites)}")
    first, *others = looked
    rows = [{"model": one.name, **row} for one in looked for row in one.rows(judge)]
    rows += [{"model": one.name, **row} for one in others for row in matched(one, first)]
    arrays: dict[str, dict[str, Array]] = {}
    for one in looked:
        for array, values in {**one.arrays(), **judge.arrays()}.items():
            arrays.setdefault(array, {})[one.name] = values
    return Findings(
        rows,
        arrays,
        images=len(scanned.images),
        skipped=scanned.skipped,
        notes=[*notes, *judge.notes],
    )


def _check(source: ImageSource, sites: Sequence[str], *, k: int, relation: str) -> None:
    """Refuse settings and images that make no sense, before any work."""
    if relation not in RELATIONS:
        raise BadValue(
            f"no relation {relation!r}.{suggestion(relation, RELATIONS)} There are: {', '.join(RELATIONS)}."
        )
    if k < 2 or not sites:
        raise BadValue(f"concepts needs at least one pattern of sites, and k from 2 up, not {k}")
    if source.classes is None:
        raise BadValue(
            f"the study 'concepts' needs labels, and {source.name} has none. Give --labels FILE (a CSV with "
            "the columns path and label), or a folder of class folders"
        )


def draw(result: Result) -> dict[str, Figure]:
    """Distance, where there are relations, and entropy of the best images by depth, beside random sets."""
    labels = {"distance": "distance of two classes", "entropy": "entropy of classes (bits)"}
    return {
        name: _by_depth(result, name, label)
        for name, label in labels.items()
        if f"random_{name}" in result.arrays
    }


def _by_depth(result: Result, measure: str, label: str) -> Figure:
    series = []
    for model in result.models:
        rows = result.rows(model=model, part="site")
        low, middle, high = (
            [math.nan if row[one] is None else row[one] for row in rows]
            for one in (f"{measure}_low", measure, f"{measure}_high")
        )
        if rows:
            series.append(Line(model, [row["depth"] for row in rows], middle, low, high))
    chance = next(row for row in result.table if row["part"] == "site")[f"{measure}_random"]
    return lines(
        {f"Best images of a unit (thin line: random sets, {chance:.3g})": series},
        x_label="depth (first site 0, last 1)",
        y_label=f"{label}, mean over units",
        ticks=[0, 0.25, 0.5, 0.75, 1],
        reference=chance,
    )


CONCEPTS = Study(
    name="concepts",
    question="Do a unit's best images share a class, or an idea that goes across classes?",
    method=(
        "Of every unit the k labelled images with the largest activation are found. How mixed their classes "
        "are, and how far apart in meaning, is compared with random sets of as many images and, between "
        "models, with units of equal depth and equal sharpness of the top activations."
    ),
    citation="Ghiasi et al. 2022, Figures 8 and 9 (arXiv 2212.06727)",
    run=run,
    draw=draw,
    caveats=(
        "The paper shows units of CLIP and calls them conceptual, without numbers. The measures are ours.",
        "Mixed classes are not a concept: a unit that answers to anything is mixed too. Read the matched "
        "differences, and compare with random sets.",
        "Distances in a hierarchy are rough: they depend on how finely the hierarchy divides, and a table "
        "that leaves parts of it out moves every number.",
        "With few images a class, the k best cannot share one: entropy is then high whatever the unit does.",
        "Intervals take the units of a site for independent, which they are not quite.",
    ),
)
