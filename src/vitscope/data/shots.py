"""A few labelled images of every class to learn from, and others to be tested on, drawn by a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vitscope.data.derived import Chosen
from vitscope.data.source import ImageSource, RawImage
from vitscope.draws import key
from vitscope.errors import BadValue


@dataclass(frozen=True)
class Shots:
    """Some images of a source in three parts, of which no two share an image.

    Attributes:
        fit: to learn from.
        tune: to choose settings by; with `fit` these are the shots.
        test: for the number that is reported, and nothing else.
        classes: the labels that occur.
        left_out: classes with fewer than two different images, which cannot be learnt and tested.
        fewest, most: the shots of the class that has fewest, and of the one that has most.
    """

    fit: Chosen
    tune: Chosen
    test: Chosen
    classes: tuple[int, ...]
    left_out: int
    fewest: int
    most: int


def few_shots(
    source: ImageSource, *, shots: int, test: float, held_out: float, draws: int = 1, seed: int = 0
) -> tuple[Shots, ...]:
    """Draw them, once or several times. Every file is read once for its label.

    Images of a class are put in an order that depends on the seed and each image's bytes only. The first
    of it are tested on. A picture that comes again is taken once. Draws know nothing of one another: an
    image that one learns from may be what another is tested on. Draw d of seed s has the seed s * draws + d,
    so that another seed has other draws throughout.

    Args:
        source: labelled images.
        shots: images of each class to learn from; all but those for testing where 0.
        test: the share of each class's images that is for testing: at least one, and never all.
        held_out: the share of each class's shots that goes to `tune`: at least one of two or more.
        draws: how many.
        seed: of the draws.

    Raises:
        BadValue: a number outside its range, fewer than two classes with two different images, or no image
            left for `tune`.
    """
    if shots < 0 or not 0 < test < 1 or not 0 < held_out < 1 or draws < 1:
        raise BadValue(
            "shots is at least 0, test and held_out lie between 0 and 1, and draws is at least 1, "
            f"not {shots}, {test}, {held_out} and {draws}"
        )
    known = _by_class(source)
    return tuple(
        _drawn(source, known, shots=shots, test=test, held_out=held_out, seed=seed * draws + draw)
        for draw in range(draws)
    )


def _drawn(
    source: ImageSource,
    known: Mapping[int, Mapping[str, int]],
    *,
    shots: int,
    test: float,
    held_out: float,
    seed: int,
) -> Shots:
    parts: dict[str, list[int]] = {"fit": [], "tune": [], "test": []}
    taken: list[int] = []
    counts: list[int] = []
    for label, places in sorted(known.items()):
        ids = sorted(places, key=lambda image: key(seed, image))
        if len(ids) < 2:
            continue
        tested = max(1, int(test * len(ids)))
        learnt = ids[tested : tested + shots] if shots else ids[tested:]
        tuned = min(max(1, round(held_out * len(learnt))), len(learnt) - 1)
        for part, chosen in (("test", ids[:tested]), ("tune", learnt[:tuned]), ("fit", learnt[tuned:])):
            parts[part] += [places[image] for image in chosen]
        taken.append(label)
        counts.append(len(learnt))
    if len(taken) < 2 or not parts["tune"]:
        raise BadValue(
            f"{source.name} has {len(known)} classes, of which {len(taken)} have two different images: "
            "two such classes are needed, and in one of them two images besides those for testing. Give more "
            "images, or a smaller share for testing"
        )
    cut = {part: _chosen(source, places, told=f"{part} of seed {seed}") for part, places in parts.items()}
    return Shots(
        **cut, classes=tuple(taken), left_out=len(known) - len(taken), fewest=min(counts), most=max(counts)
    )


def _by_class(source: ImageSource) -> Mapping[int, dict[str, int]]:
    """Label -> image id -> its place in the source, the first where it comes again."""
    found: dict[int, dict[str, int]] = {}
    for shard in source.shards():
        for place, entry in enumerate(source.read(shard), start=shard.start):
            if isinstance(entry, RawImage) and entry.label is not None:
                found.setdefault(entry.label, {}).setdefault(entry.id, place)
    return found


def _chosen(source: ImageSource, places: Sequence[int], *, told: str) -> Chosen:
    return Chosen(source, sorted(places), told=told)
