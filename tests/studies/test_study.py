"""What a study is: settings from a signature, needs that are checked, provenance of several models."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from vitscope.data.foregrounds import Boxes
from vitscope.data.source import RawImage, Skipped, cut
from vitscope.errors import BadValue, Failure, UnknownName
from vitscope.models.vision_model import Sites
from vitscope.studies import STUDIES, open_result, study
from vitscope.studies.result import Result
from vitscope.studies.study import Findings, Study, by_name, label_notes


class Images:
    """A source of three images, the last of which may have a foreground."""

    def __init__(self, classes=None, foreground=None):
        self.name, self.fingerprint, self.classes = "double:", "sha256:" + "0" * 64, classes
        self.foreground = foreground

    def __len__(self):
        return 3

    def read(self, shard):
        known = (None, None, self.foreground)
        places = range(shard.start, shard.stop)
        return (RawImage(f"{place}.png", b"", foreground=known[place]) for place in places)

    def shards(self, size=3):
        return cut(3, size)

    def find(self, path):
        return Skipped(path, "missing")

    def describe(self):
        return {"name": self.name}


def count(models, source, *, factor=2.0, radii=(4, 8), seed=0, kind="disk", batch_size=8, on_progress=None):
    if on_progress:
        on_progress("counting", 1, 1)
    rows = [{"model": name, "sites": np.int64(len(model.sites) * factor)} for name, model in models.items()]
    arrays = {"radius": {name: np.array(radii) for name in models}}
    skipped = [Skipped("a.png", "truncated"), Skipped("b.png", "truncated"), Skipped("c.png", "corrupt")]
    return Findings(rows, arrays, images=5, skipped=skipped, notes=["a note"])


def greedy(models, source, *, images=3):
    return Findings([])


def affirmed(models, source, *, yes=True):
    return Findings([])


def undrawn(result):
    return {}


def idle(models, source, *, factor=2.0):
    pytest.fail("it ran")


def described(**changes) -> Study:
    facts = {
        "name": "counting",
        "question": "How many?",
        "method": "It counts.",
        "citation": "Nobody, 2022",
        "run": count,
        "published": ({"model": "other", "sites": 7, "source": "Table 1"},),
    }
    return Study(**{**facts, **changes})


def test_settings_are_the_functions_keyword_arguments():
    assert described().settings == {
        "factor": 2.0,
        "radii": (4, 8),
        "seed": 0,
        "kind": "disk",
        "batch_size": 8,
    }
    assert described().describe()["settings"]["radii"] == [4, 8]


def test_one_model_and_plain_arrays(vit):
    heard = []
    result = described()(vit, Images(), factor=3.0, on_progress=lambda *told: heard.append(told))
    assert result.models == (vit.name,)
    assert result.table == ({"model": vit.name, "sites": 3 * len(vit.sites)},)
    assert type(result.table[0]["sites"]) is int
    assert result.arrays["radius"].tolist() == [4, 8]
    assert result.published[0]["source"] == "Table 1"
    assert heard == [("counting", 1, 1)]
    made = result.provenance
    assert (made.kind, made.model, made.weights) == ("study", vit.name, vit.fingerprint)
    assert made.settings["factor"] == 3.0
    assert made.settings["seen"] == {
        "images": 5,
        "skipped": {"corrupt": 1, "truncated": 2},
        "notes": ["a note"],
    }


def test_several_models_side_by_side(vit, cnn):
    result = described()([vit, cnn], Images())
    assert [row["model"] for row in result.table] == list(result.models) == [vit.name, f"{cnn.name}"] or (
        vit.name == cnn.name and result.models == (vit.name, f"{vit.name} (2)")
    )
    assert {model: array.tolist() for model, array in result.arrays["radius"].items()} == {
        model: [4, 8] for model in result.models
    }
    assert list(result.provenance.preprocessing) == list(result.models)
    assert result.provenance.weights == f"{vit.fingerprint}, {cnn.fingerprint}"


def test_two_models_of_one_name_are_told_apart(vit):
    assert list(by_name([vit, vit, vit])) == [vit.name, f"{vit.name} (2)", f"{vit.name} (3)"]
    with pytest.raises(BadValue, match="at least one model"):
        by_name([])


@pytest.mark.parametrize(
    ("need", "has", "says"),
    [
        ("labels", {"classes": ("0", "1")}, "needs labels, and double: has none. Give --labels FILE"),
        (
            "foreground",
            {"foreground": Boxes(((0.0, 0.0, 1.0, 1.0),))},
            "needs boxes or masks, and double: has neither. Give --boxes FILE or --masks DIR",
        ),
    ],
)
def test_what_images_lack_is_named(vit, need, has, says):
    with pytest.raises(BadValue) as error:
        described(needs=(need,))(vit, Images())
    assert str(error.value).startswith(f"the study 'counting' {says}")
    assert described(needs=(need,))(vit, Images(**has)).table


@pytest.mark.parametrize("need", ["cls", "attention"])
def test_one_model_of_several_must_have_it(vit, cnn, need):
    with pytest.raises(BadValue, match=f"needs a model with .*{cnn.name}.*Give one such as"):
        described(needs=(need,))(cnn, Images())
    assert len(described(needs=(need,))([cnn, vit], Images()).table) == 2


def test_an_unknown_setting_names_the_nearest(vit):
    says = r"'counting' has no setting 'radius'. Nearest: 'radii'. There are: factor, radii"
    with pytest.raises(BadValue, match=says):
        described()(vit, Images(), radius=3)


@pytest.mark.parametrize("text", ["yes=false", "yes=False"])
def test_a_truth_value(text):
    assert described(run=affirmed).parse([text]) == {"yes": False}
    with pytest.raises(BadValue, match="yes is a bool such as True, not '0'"):
        described(run=affirmed).parse(["yes=0"])


def test_settings_are_read_by_the_type_of_their_default():
    read = described().parse(["radii=4, 8,16", "factor=3", "seed=7", "kind=square"])
    assert read == {"radii": (4, 8, 16), "factor": 3.0, "seed": 7, "kind": "square"}
    assert type(read["factor"]) is float


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed=x", "seed is a int such as 0, not 'x'"),
        ("seed=1.5", "seed is a int such as 0, not '1.5'"),
        ("radii=4,x", "radii is a int such as 4, not 'x'"),
        ("radii", "a setting is written name=value, not 'radii'"),
        ("radi=4", "no setting 'radi'. Nearest: 'radii'"),
    ],
)
def test_settings_that_cannot_be_read(text, says):
    with pytest.raises(BadValue) as error:
        described().parse([text])
    assert says in str(error.value)


def test_a_row_must_name_one_of_the_models(vit):
    def run(models, source):
        return Findings([{"model": "nobody", "top1": 1.0}])

    with pytest.raises(BadValue, match="a row must name one of the models"):
        described(run=run)(vit, Images())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"needs": ("label",)}, "no need 'label'. Nearest: 'labels'"),
        ({"published": ({"model": "x", "top1": 3.0},)}, "does not say where it stands"),
        ({"run": greedy}, "'images' cannot be a setting"),
    ],
)
def test_a_study_that_is_not_well_described(changes, says):
    with pytest.raises(BadValue, match=says):
        described(**changes)


def test_out_is_saved_and_another_result_there_is_refused_before_any_work(vit, tmp_path):
    described()(vit, Images(), out=tmp_path)
    assert Result.open(tmp_path).table == described()(vit, Images(), batch_size=2, out=tmp_path).table
    with pytest.raises(Failure, match=r"made otherwise \(.*factor: 2.0 there, 5.0 now"):
        described(run=idle)(vit, Images(), factor=5.0, out=tmp_path)


def test_an_unknown_study_names_the_nearest(vit):
    with pytest.raises(UnknownName, match=r"no study 'frequencies'. Nearest: 'frequency'. There are: "):
        study("frequencies", vit, Images())


def test_every_registered_study_resolves_under_its_own_name():
    for name in STUDIES:
        found = STUDIES.get(name)
        assert isinstance(found, Study)
        assert found.name == name
        assert found.question.endswith("?")
        assert found.citation


def test_a_saved_result_comes_back_with_its_figures(vit, tmp_path, monkeypatch):
    monkeypatch.setitem(STUDIES._table, "counting", described(draw=undrawn))
    study("counting", vit, Images(), out=tmp_path)
    found = open_result(tmp_path)
    assert found.draw is not None
    assert found.arrays["radius"].tolist() == [4, 8]


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (
            tuple(map(str, range(11))),
            "double: has 11 classes, but .* 10 logits: the labels are not the numbers",
        ),
        (
            ("b", "a"),
            "double: has 'b' as class 0, .* as 1: the labels are not .*Give --labels FILE with these",
        ),
    ],
)
def test_labels_that_cannot_be_the_models(vit, classes, says):
    lettered = replace_classes(vit, tuple("abcdefghij"))
    with pytest.raises(BadValue, match=says):
        described(needs=("labels",))(lettered, Images(classes))


@pytest.mark.parametrize(
    ("classes", "count"), [(("x", "y"), 1), (("a", "b", "c"), 0), (("0", "1"), 0), (tuple("pqrstuvwxy"), 0)]
)
def test_labels_that_may_not_be_the_models_are_noted(vit, classes, count):
    lettered = replace_classes(vit, tuple("abcdefghij"))
    result = described(needs=("labels",))(lettered, Images(classes))
    notes = result.provenance.settings["seen"]["notes"]
    assert len(notes) == count + 1
    assert not count or "the images have 2 classes and" in notes[0]


def test_two_classes_of_one_name_are_noted_and_not_refused(vit):
    """ImageNet has "maillot" twice; names of the source that tell them apart must not cost the other 998."""
    known = [f"class {number}" for number in range(200)]
    model = replace_classes(vit, (*known[:7], "maillot", "maillot, tank suit", *known[9:]))
    model.sites = Sites([replace(site, units=200) for site in vit.sites if site.name == "logits"])
    images = Images((*known[:7], "maillot, tights", "maillot", *known[9:]))
    (note,) = label_notes({"m": model}, images)
    assert note.startswith("double: has 'maillot' as class 8, m as 7: 1 of 199 names")


def replace_classes(model, classes):
    changed = copy.copy(model)
    changed.classes = classes
    return changed
