"""Relations between classes: distances against walks over all paths, tables, and nltk where it is there."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitscope.errors import BadValue, MissingPath
from vitscope.studies.taxonomy import EVERYTHING, Taxonomy, nltk_wordnet, read_table

LIVING = {
    "dog": ("canine", "pet"),
    "wolf": ("canine",),
    "cat": ("feline", "pet"),
    "canine": ("animal",),
    "feline": ("animal",),
    "pet": ("animal",),
    "animal": ("thing",),
    "car": ("thing",),
    "thing": (),
}


def ways(parents, name):
    """Every way up from a name, itself first."""
    if not parents[name]:
        return [[name]]
    return [[name, *way] for parent in parents[name] for way in ways(parents, parent)]


def naive(parents, one, other, relation):
    steps = {}
    for here in ways(parents, one):
        for there in ways(parents, other):
            for name in {*here} & {*there}:
                both = here.index(name) + there.index(name)
                steps[name] = min(steps.get(name, both), both)
    if relation == "path":
        return min(steps.values())
    deep = {name: max(len(way) for way in ways(parents, name)) for name in steps}
    best = max(deep.values())
    return 1 - max(2 * best / (2 * best + steps[name]) for name in steps if deep[name] == best)


@pytest.mark.parametrize("relation", ["path", "wu_palmer"])
def test_distances_equal_walks_over_all_ways(relation):
    taxonomy, names = Taxonomy("living", LIVING), list(LIVING)
    found = taxonomy.distances(names, relation=relation)
    expected = [[naive(LIVING, one, other, relation) for other in names] for one in names]
    assert found == pytest.approx(np.array(expected))


def test_distances_by_hand():
    taxonomy = Taxonomy("living", LIVING)
    assert taxonomy.distance("dog", "dog") == 0
    assert taxonomy.distance("dog", "wolf") == 2
    assert taxonomy.distance("dog", "cat") == 2  # both are pets
    assert taxonomy.distance("wolf", "cat") == 4
    assert taxonomy.distance("dog", "car") == 4
    assert taxonomy.distance("dog", "wolf", relation="wu_palmer") == pytest.approx(1 - 6 / 8)
    assert taxonomy.distance("dog", "car", relation="wu_palmer") == pytest.approx(1 - 2 / 6)


@given(st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=2, max_size=7))
def test_any_hierarchy(lists):
    """Name n stands below names smaller than it: no name is above itself, and 0 is above all."""
    parents = {"0": ()}
    for place, above in enumerate(lists, start=1):
        parents[str(place)] = tuple(dict.fromkeys(str(min(one, place - 1)) for one in above or [0]))
    taxonomy, names = Taxonomy("any", parents), list(parents)
    for relation in ("path", "wu_palmer"):
        found = taxonomy.distances(names, relation=relation)
        expected = [[naive(parents, one, other, relation) for other in names] for one in names]
        assert found == pytest.approx(np.array(expected))


def test_unknown_names_are_far_from_nothing():
    found = Taxonomy("living", LIVING).distances(["dog", None, "wolf"])
    assert found[0, 2] == 2
    assert np.isnan(found[1]).all()
    assert Taxonomy("two", {"a": (), "b": ()}).distance("a", "b") == np.inf
    assert Taxonomy("two", {"a": (), "b": ()}).distance("a", "b", relation="wu_palmer") == 1


def test_a_table(tmp_path):
    file = tmp_path / "kinds.csv"
    file.write_text("parent,child,note\nbird,hen,x\nanimal, bird ,\nrock,flint,\n")
    found = read_table(file)
    assert found.parents == {
        "hen": ("bird",),
        "bird": ("animal",),
        "animal": (EVERYTHING,),
        "flint": ("rock",),
        "rock": (EVERYTHING,),
        EVERYTHING: (),
    }
    assert found.distance("hen", "flint") == 5
    assert found.name.startswith("kinds.csv (sha256 ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,parent\na,b\n", "kinds.csv needs the columns child and parent, and has"),
        ("child,parent\na,b\nb,\n", "kinds.csv, line 3: a relation has a child and a parent"),
        ("child,parent\na,b\nb,c\nc,a\n", "kinds.csv: 'a' is a kind of itself, by way of others"),
    ],
)
def test_tables_that_make_no_sense(tmp_path, text, says):
    (tmp_path / "kinds.csv").write_text(text)
    with pytest.raises(BadValue, match=says):
        read_table(tmp_path / "kinds.csv")


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(MissingPath, match="no table of hypernyms"):
        read_table(tmp_path / "none.csv")


class Synset:
    """As much of nltk's synset as is asked for."""

    def __init__(self, offset, *hypernyms, instances=()):
        self._offset, self._hypernyms, self._instances = offset, hypernyms, instances

    def offset(self):
        return self._offset

    def hypernyms(self):
        return list(self._hypernyms)

    def instance_hypernyms(self):
        return list(self._instances)


@pytest.fixture
def pretended(monkeypatch):
    """An nltk with a corpus of four synsets, or with none."""

    def install(*, corpus):
        def load():
            if not corpus:
                raise LookupError("Resource wordnet not found")

        entity = Synset(1740)
        animal = Synset(15388, entity)
        known = {7: Synset(7, animal), 8: Synset(8, animal, instances=(entity,))}
        wordnet = SimpleNamespace(
            ensure_loaded=load,
            synset_from_pos_and_offset=lambda pos, offset: {"n": known}[pos][offset],
            get_version=lambda: "3.0",
        )
        package, inner = ModuleType("nltk"), ModuleType("nltk.corpus")
        inner.wordnet = wordnet
        monkeypatch.setitem(sys.modules, "nltk", package)
        monkeypatch.setitem(sys.modules, "nltk.corpus", inner)

    return install


def test_the_corpus_of_nltk(pretended):
    pretended(corpus=True)
    found = nltk_wordnet(["n00000007", "n00000008", "n00000007"])
    assert found.parents == {
        "n00000007": ("n00015388",),
        "n00000008": ("n00015388", "n00001740"),
        "n00015388": ("n00001740",),
        "n00001740": (),
    }
    assert found.name == "nltk's WordNet 3.0"
    assert found.distance("n00000007", "n00000008") == 2


def test_nltk_without_its_corpus_is_not_fetched_for(pretended):
    pretended(corpus=False)
    assert nltk_wordnet(["n00000007"]) is None


def test_no_nltk(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    assert nltk_wordnet(["n00000007"]) is None
