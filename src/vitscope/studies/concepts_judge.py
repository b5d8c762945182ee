"""What the study `concepts` judges images by: their classes, how far apart these are, and random sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from vitscope.data.source import ImageSource
from vitscope.errors import Unsuited
from vitscope.meters.reading import Array
from vitscope.parts import ImageRecord
from vitscope.studies.taxonomy import WNID, Relation, Taxonomy, nltk_wordnet

SETS = 1000
"""Random sets of images that units are compared with."""


@dataclass(frozen=True, eq=False)
class Judge:
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


def judge_of(
    source: ImageSource,
    images: Sequence[ImageRecord],
    table: Taxonomy | None,
    *,
    relation: str,
    k: int,
    seed: int,
) -> Judge:
    """What sets of k of these images are judged by.

    Args:
        source: where they come from, for the names of classes.
        images: all that were read.
        table: how classes are related; None takes the WordNet of nltk, where there is one.
        relation: "path" or "wu_palmer".
        k: images a set.
        seed: of the random sets.

    Raises:
        Unsuited: fewer than k have a label.
    """
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
        present = {place: classes[place] for place in sorted(set(labels.values()))}
        known = {place: _known(taxonomy, name, wnids.get(place)) for place, name in present.items()}
        kind: Relation = "path" if relation == "path" else "wu_palmer"
        apart = taxonomy.distances([known.get(place) for place in range(len(classes))], relation=kind)
        strange = sorted(name for place, name in present.items() if known[place] is None)
        notes += _told(taxonomy, strange, len(present))
    every, draw = np.array(list(labels.values())), np.random.default_rng(seed)
    sets = np.stack([draw.choice(every, k, replace=False) for _ in range(SETS)])
    random = {"entropy": entropies(sets)}
    if apart is not None:
        random["distance"] = spreads(sets, apart)
    return Judge(labels, apart, tuple(notes), random)


def _without_relations(identified: bool) -> str:
    why = "nltk's WordNet is not installed" if identified else "no WordNet ids are in the images' names"
    return (
        f"no distance between classes is reported: {why}, and no table was given. Give wordnet=FILE, a CSV "
        "with the columns child and parent"
    )


def _told(taxonomy: Taxonomy, strange: Sequence[str], classes: int) -> list[str]:
    """By what classes are related, and which of so many are not."""
    some = ", ".join(map(repr, strange[:3]))
    lost = [f"it does not know {len(strange)} of {classes} classes ({some}): left out"] if strange else []
    return [f"relations are those of {taxonomy.name}", *lost]


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
