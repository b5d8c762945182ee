"""Do the images that excite a unit share a class, or an idea across classes? (Ghiasi et al. 2022, CLIP)

Rows with `part` "site", one for each site; with several models also "matched", one for each site of every
further model, compared with the first, and "matched_all", over the sites. Arrays: `sites` [site]; `entropy`,
`distance`, `sharpness` [site][unit]; `random_entropy`, `random_distance` [set].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from vitscope.data.source import ImageSource
from vitscope.errors import BadValue, UnknownSite, Unsuited, suggestion
from vitscope.meters.meter import Meter
from vitscope.meters.moments import Moments
from vitscope.meters.reading import Array
from vitscope.meters.share import Share
from vitscope.meters.topk import Exemplars, TopK
from vitscope.parts import BATCH_SIZE, ImageRecord, Scanned
from vitscope.plots import Line, lines
from vitscope.scan import scan
from vitscope.studies.depth import PATTERNS, depths, first_pattern, padded, quartiles
from vitscope.studies.effects import Effect, average, mean_of
from vitscope.studies.matching import matched_difference
from vitscope.studies.result import Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study
from vitscope.studies.taxonomy import RELATIONS, WNID, Relation, Taxonomy, nltk_wordnet, read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETS = 1000
"""Random sets of images that units are compared with."""
RARE = 0.05
"""The share of random sets whose classes are closer together than what counts as close."""


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
    looked: list[_Looked] = []
    notes: list[str] = []
    scanned: Scanned | None = None
    judge: _Judge | None = None
    for name, model in models.items():
        try:
            pattern = first_pattern(model, sites)
        except UnknownSite:
            notes.append(f"{name} is left out: it has no sites like {' or '.join(sites)}")
            continue
        told = partial(on_progress, name) if on_progress else None
        meters: list[Meter] = [TopK(pattern, k=k, rank=rank), Moments(pattern)]
        scanned = scan(model, source, meters, batch_size=batch_size, on_progress=told)
        judge = judge or _judge(source, scanned.images, table, relation=relation, k=k, seed=seed)
        looked.append(_looked(name, scanned, judge, rank=rank))
    if scanned is None or judge is None:
        raise Unsuited(f"no model has sites like {' or '.join(sites)}")
    first, *others = looked
    rows = [{"model": one.name, **row} for one in looked for row in one.rows(judge)]
    rows += [{"model": one.name, **row} for one in others for row in _matched(one, first)]
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


@dataclass(frozen=True, eq=False)
class _Judge:
    """What sets of images are judged by.

    Attributes:
        labels: of every labelled image, by its id.
        apart: how far apart two classes are; NaN where one is not known; None without relations.
        notes: what a reader must know.
        random: measure -> its values for random sets.
    """

    labels: dict[bytes, int] = field(repr=False)
    apart: Float[Array, "label label"] | None = field(repr=False)
    notes: tuple[str, ...]
    random: dict[str, Float[Array, " set"]] = field(repr=False)

    @property
    def measures(self) -> tuple[str, ...]:
        """What can be told of a set."""
        return tuple(self.random)

    def arrays(self) -> dict[str, Array]:
        """The random sets, for a result."""
        return {f"random_{name}": values for name, values in self.random.items()}


def _judge(
    source: ImageSource,
    images: Sequence[ImageRecord],
    table: Taxonomy | None,
    *,
    relation: str,
    k: int,
    seed: int,
) -> _Judge:
    labels = {bytes.fromhex(image.id): image.label for image in images if image.label >= 0}
    if len(labels) < k:
        raise Unsuited(f"{source.name} has {len(labels)} labelled images that differ: fewer than k = {k}")
    classes = source.classes or ()
    wnids = _wnids(images, classes)
    taxonomy = table or (nltk_wordnet(wnids.values()) if wnids else None)
    notes = [] if taxonomy else [_without_relations(bool(wnids))]
    if max(np.bincount(list(labels.values()))) == 1:
        notes.append(
            f"every class has one image: the entropy of {k} images is {math.log2(k):.3g} bits whatever they "
            "are, and tells nothing"
        )
    apart = None
    if taxonomy is not None:
        present = set(labels.values())
        names = [_known(taxonomy, name, wnids.get(place)) for place, name in enumerate(classes)]
        names = [name if place in present else None for place, name in enumerate(names)]
        strange = sorted(classes[place] for place in present if names[place] is None)
        kind: Relation = "path" if relation == "path" else "wu_palmer"
        apart = taxonomy.distances(names, relation=kind)
        notes.append(f"relations are those of {taxonomy.name}")
        if strange:
            told = ", ".join(map(repr, strange[:3]))
            notes.append(f"it does not know {len(strange)} of {len(present)} classes ({told}): left out")
    every, draw = np.array(list(labels.values())), np.random.default_rng(seed)
    sets = np.stack([draw.choice(every, k, replace=False) for _ in range(SETS)])
    random = {"entropy": entropies(sets)}
    if apart is not None:
        random["distance"] = spreads(sets, apart)
    return _Judge(labels, apart, tuple(notes), random)


def _without_relations(identified: bool) -> str:
    why = "nltk's WordNet is not installed" if identified else "no WordNet ids are in the images' names"
    return (
        f"no distance between classes is reported: {why}, and no table was given. Give wordnet=FILE, a CSV "
        "with the columns child and parent"
    )


def _wnids(images: Sequence[ImageRecord], classes: Sequence[str]) -> dict[int, str]:
    """The WordNet id of every class that is called by one, or whose images lie in a folder of that name."""
    found = {place: name for place, name in enumerate(classes) if WNID.fullmatch(name)}
    for image in images:
        ids = WNID.findall(image.path)
        if image.label >= 0 and ids:
            found.setdefault(image.label, ids[0])
    return found


def _known(taxonomy: Taxonomy, name: str, wnid: str | None) -> str | None:
    """What the relations call a class."""
    return next((one for one in (name, wnid) if one in taxonomy.parents), None)


def entropies(labels: Int[Array, "set image"]) -> Float[Array, " set"]:
    """The entropy of the labels of every set, in bits; NaN where one is -1, which stands for none."""
    found = np.full(len(labels), np.nan)
    for place in np.flatnonzero((labels >= 0).all(axis=1)):
        share = np.unique(labels[place], return_counts=True)[1] / labels.shape[1]
        found[place] = abs(float((share * np.log2(share)).sum()))
    return found


def spreads(labels: Int[Array, "set image"], apart: Float[Array, "label label"]) -> Float[Array, " set"]:
    """The mean distance of the classes of two images, over all pairs of every set.

    Two images of a class are 0 apart; pairs with a class that has no place among the relations do not count.
    NaN where a label is -1, or nothing counts.
    """
    found = np.full(len(labels), np.nan)
    one, other = np.triu_indices(labels.shape[1], 1)
    for place in np.flatnonzero((labels >= 0).all(axis=1)):
        values = apart[labels[place][one], labels[place][other]]
        known = values[np.isfinite(values)]
        if known.size:
            found[place] = known.mean()
    return found


@dataclass(frozen=True, eq=False)
class _Looked:
    """What the best images of one model's units are like: of each measure an array for every site."""

    name: str
    sites: tuple[str, ...]
    values: dict[str, list[Array]]

    def rows(self, judge: _Judge) -> list[Row]:
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


def _looked(name: str, scanned: Scanned, judge: _Judge, *, rank: str) -> _Looked:
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
    return _Looked(name, tuple(boards), values)


def _labels(board: Exemplars, judge: _Judge) -> Int[Array, "unit k"]:
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


def _matched(one: _Looked, first: _Looked) -> list[Row]:
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
