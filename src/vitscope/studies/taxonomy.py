"""How far apart the meanings of classes are: hypernyms from a table, or from the WordNet corpus of nltk.

vitscope ships no such relations and fetches none. A table is a CSV with the columns `child` and `parent`: one
line for each "is a" relation, names of classes or WordNet ids at will, a child on several lines where it has
several parents.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from vitscope.errors import BadValue, MissingPath
from vitscope.meters.reading import Array

Relation = Literal["path", "wu_palmer"]
RELATIONS: tuple[Relation, ...] = ("path", "wu_palmer")
WNID = re.compile(r"n\d{8}")
"""A WordNet id as ImageNet writes it: "n" and the eight digits of a noun in WordNet 3.0."""
COLUMNS = ("child", "parent")
EVERYTHING = "(everything)"
"""What stands above several roots, so that all names have something in common."""


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """Which kinds are kinds of which.

    Attributes:
        name: where it comes from, for people.
        parents: of every name, those directly above it; a root has none.
    """

    name: str
    parents: Mapping[str, tuple[str, ...]] = field(repr=False)
    _above: dict[str, Mapping[str, int]] = field(default_factory=dict, init=False, repr=False)
    _depth: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def above(self, name: str) -> Mapping[str, int]:
        """Everything that it is a kind of, itself included, with the fewest steps up to it."""
        if name not in self._above:
            self._above[name] = self._steps(name)
        return self._above[name]

    def _steps(self, name: str) -> Mapping[str, int]:
        steps, edge = {name: 0}, [name]
        while edge:
            higher = [parent for child in edge for parent in self.parents.get(child, ())]
            edge = [parent for parent in dict.fromkeys(higher) if parent not in steps]
            distance = max(steps.values()) + 1
            steps.update(dict.fromkeys(edge, distance))
        return steps

    def depth(self, name: str) -> int:
        """How many names the longest way down to it has; 1 for a root."""
        if name not in self._depth:
            above = (self.depth(parent) for parent in self.parents.get(name, ()))
            self._depth[name] = 1 + max(above, default=0)
        return self._depth[name]

    def distance(self, one: str, other: str, *, relation: Relation = "path") -> float:
        """How far apart two names are; 0 for the same.

        "path" counts the relations on the shortest way over something that both are. "wu_palmer" is 1 less
        the similarity of Wu and Palmer (1994): twice the depth of the deepest of what both are, over the sum
        of their depths measured through it. Infinite, and 1, for names that have nothing in common, which
        does not happen in what `read_table` and `nltk_wordnet` return.
        """
        ours, theirs = self.above(one), self.above(other)
        shared = ours.keys() & theirs.keys()
        if relation == "path":
            return float(min((ours[name] + theirs[name] for name in shared), default=np.inf))
        if not shared:
            return 1.0
        best = max(shared, key=lambda name: (self.depth(name), -ours[name] - theirs[name]))
        deep = 2 * self.depth(best)
        return 1 - deep / (deep + ours[best] + theirs[best])

    def distances(
        self, names: Sequence[str | None], *, relation: Relation = "path"
    ) -> Float[Array, "name name"]:
        """Of all pairs; NaN where a name is None."""
        found = np.full((len(names), len(names)), np.nan)
        for row, one in enumerate(names):
            for column, other in enumerate(names[: row + 1]):
                if one is not None and other is not None:
                    found[row, column] = found[column, row] = self.distance(one, other, relation=relation)
        return found


def read_table(path: str | Path) -> Taxonomy:
    """The relations of a CSV with the columns `child` and `parent`.

    Raises:
        MissingPath: there is no such file.
        BadValue: other columns, a line without a name, or a name that is a kind of itself.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingPath(f"no table of hypernyms {str(path)!r}")
    content = path.read_bytes()
    rows = csv.DictReader(content.decode("utf-8-sig").splitlines())
    if not {*COLUMNS} <= {*(rows.fieldnames or ())}:
        raise BadValue(f"{path.name} needs the columns child and parent, and has {rows.fieldnames}")
    parents: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=2):
        child, parent = ((row[name] or "").strip() for name in COLUMNS)
        if not child or not parent:
            raise BadValue(f"{path.name}, line {number}: a relation has a child and a parent")
        parents.setdefault(child, []).append(parent)
    _check_acyclic(parents, path.name)
    known = {child: tuple(dict.fromkeys(above)) for child, above in parents.items()}
    digest = hashlib.sha256(content).hexdigest()[:12]
    return Taxonomy(f"{path.name} (sha256 {digest})", _rooted(known))


def nltk_wordnet(ids: Iterable[str]) -> Taxonomy | None:
    """The hypernyms of these WordNet ids, from nltk's corpus; None where nltk or its corpus is not there.

    Nothing is fetched: the corpus is there if its owner has put it there, with `nltk.download("wordnet")`.
    """
    try:
        wordnet: Any = import_module("nltk.corpus").wordnet
        wordnet.ensure_loaded()
    except (ImportError, LookupError):
        return None
    parents: dict[str, tuple[str, ...]] = {}
    waiting = [wordnet.synset_from_pos_and_offset("n", int(name[1:])) for name in dict.fromkeys(ids)]
    while waiting:
        synset = waiting.pop()
        if _wnid(synset) not in parents:
            higher = [*synset.hypernyms(), *synset.instance_hypernyms()]
            parents[_wnid(synset)] = tuple(map(_wnid, higher))
            waiting += higher
    return Taxonomy(f"nltk's WordNet {wordnet.get_version()}", _rooted(parents))


def _rooted(parents: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """With every name as a child, and one name above all roots where there are several."""
    named = {parent for above in parents.values() for parent in above}
    whole = {**dict.fromkeys(sorted(named), ()), **parents}
    roots = [name for name, above in whole.items() if not above]
    return {**whole, **dict.fromkeys(roots, (EVERYTHING,)), EVERYTHING: ()} if len(roots) > 1 else whole


def _wnid(synset: Any) -> str:
    return f"n{synset.offset():08d}"


def _check_acyclic(parents: Mapping[str, Sequence[str]], name: str) -> None:
    """Refuse names that are above themselves, by taking away what has nothing left above it."""
    left = dict(parents)
    while left:
        free = [child for child, above in left.items() if not any(parent in left for parent in above)]
        if not free:
            raise BadValue(f"{name}: {min(left)!r} is a kind of itself, by way of others")
        for child in free:
            del left[child]
