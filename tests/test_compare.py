"""Two models compared: studies saved or left out with a note, and a second run that computes nothing."""

import inspect
import json
import re
import sys
from dataclasses import replace
from functools import wraps
from pathlib import Path

import numpy as np
import pytest

import vitscope
from vitscope.compare import ASKED, compare
from vitscope.data import images
from vitscope.errors import BadValue, Failure, UnknownName
from vitscope.studies import STUDIES, open_result
from vitscope.testing import tiny_cnn, tiny_vit

MODULE = sys.modules["vitscope.compare"]
DOCS = Path(__file__).parents[1] / "docs"
COUNT = 20
QUICK = {"matched_dreams": {"units": 1, "depths": (0.5,), "steps": 1, "copies": 1}}
"""Settings that make a comparison of two tiny models quick."""


@pytest.fixture(scope="module")
def photos(tinted):
    folder = tinted(COUNT)
    return images(f"folder:{folder}", labels=folder / "labels.csv")


@pytest.fixture(scope="module")
def ran():
    """Which studies computed something."""
    return []


@pytest.fixture(scope="module", autouse=True)
def counted(ran):
    """Studies that note when they run; dreams are quick, and other figures not drawn."""
    patch = pytest.MonkeyPatch()
    STUDIES.names()
    for name in [each for each in ASKED if each in STUDIES]:
        study = STUDIES.get(name)
        figures = study.draw if name == "matched_dreams" else None
        patch.setitem(STUDIES._table, name, replace(study, run=noting(study, ran), draw=figures))
    asked = {name: {**own, **QUICK.get(name, {})} for name, own in ASKED.items()}
    patch.setattr(MODULE, "ASKED", asked)
    yield
    patch.undo()


def noting(study, ran):
    @wraps(study.run)
    def run(*given, **asked):
        ran.append(study.name)
        return study.run(*given, **asked)

    return run


@pytest.fixture(scope="module")
def pair():
    return tiny_vit(depth=4), tiny_cnn()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def compared(pair, photos, folder, told):
    return compare(*pair, photos, out=folder, limit=16, on_progress=lambda *each: told.append(each))


def test_every_study_that_one_answers_is_saved_and_on_the_page(compared, folder):
    assert list(compared.results) == [name for name in ASKED if name in STUDIES and name in compared.results]
    assert {"similarity", "receptive_field", "skips", "matched_dreams", "overview"} <= set(compared.results)
    page = compared.index.read_text()
    for name, result in compared.results.items():
        assert open_result(folder / "results" / name).describe() == result.describe()
        assert (folder / f"{name}.html").is_file()
        assert f'href="{name}.html"' in page
        known = {row["model"] for row in result.table}
        assert known == set(compared.models) or name in compared.left_out
    assert compared.index == folder / "index.html"


def test_what_one_of_them_cannot_answer_is_asked_of_the_other(pair, compared, folder):
    why = compared.left_out["attention_distance"]
    assert why.startswith("ResNet is left out: it has no attention weights")
    result = compared.results["attention_distance"]
    assert {row["model"] for row in result.table} == {pair[0].name}
    page = compared.index.read_text()
    assert "attention_distance: ResNet is left out" in page
    assert 'href="attention_distance.html"' in page


def test_the_summary_is_read_off_the_results(pair, compared):
    lines = {fact.quantity: fact for fact in compared.facts}
    vit, cnn = compared.models

    def values(quantity):
        return [lines[quantity].readings[name].value for name in (vit, cnn)]

    assert values("blocks") == [4, 5]
    overview = compared.results["overview"]
    assert values("top-1 on these images (%)") == [row["top1"] for row in overview.table]
    similarity = compared.results["similarity"]
    quarters = [similarity.by_model("cka")[name][0, -1] for name in (vit, cnn)]
    assert values("CKA of the first quarter of blocks with the last") == pytest.approx(quarters)
    cross = similarity.by_model(f"cka_with_{cnn}")[vit]
    matched = [cross.max(axis=1).mean(), cross.max(axis=0).mean()]
    assert values("CKA of a block with its best match in the other model") == pytest.approx(matched)
    fields = compared.results["receptive_field"]
    first = [fields.rows(model=vit, site="blocks.0"), fields.rows(model=cnn, site="stages.0.0")]
    radius = "90 % of the receptive field within, first block (px)"
    assert values(radius) == [row["radius90"] for (row,) in first]
    skips = compared.results["skips"]
    late = [
        row["median_ratio"]
        for block in ("blocks.2", "blocks.3")
        for row in skips.rows(model=vit, block=block, tokens="patches")
    ]
    reading = lines["skip / branch, second half of the blocks (median, extremes)"].readings[vit]
    assert reading == pytest.approx((np.median(late), min(late), max(late)))
    page = compared.index.read_text()
    assert "16 images, " in page
    assert f">{sum(weight.numel() for weight in pair[0].module.parameters()):,}</td>" in page


def test_both_saw_the_same_images_drawn_from_all(compared):
    sources = {result.provenance.source for result in compared.results.values()}
    assert len(sources) == 1
    assert compared.images.endswith("drawn with seed 0 | first 16")
    assert compared.results["similarity"].provenance.settings["seen"]["images"] == 16


def test_progress_names_the_study_and_the_model(compared, told):
    stages = {stage for stage, _, _ in told}
    assert {f"{study}: {model}" for study in ("similarity", "skips") for model in compared.models} <= stages


def test_a_second_run_computes_nothing_and_leaves_the_same_page(pair, photos, folder, compared, ran):
    page = compared.index.read_bytes()
    ran.clear()
    again = compare(*pair, photos, out=folder, limit=16, batch_size=4)
    assert ran == [name for name in ran if name not in compared.results]
    assert again.describe() == compared.describe()
    assert again.index.read_bytes() == page


def test_what_is_missing_is_computed_and_nothing_else(pair, photos, folder, compared, ran):
    (folder / "results" / "skips" / "result.json").unlink()
    ran.clear()
    compare(*pair, photos, out=folder, limit=16)
    assert [name for name in ran if name in compared.results] == ["skips"]


def test_another_question_in_the_same_folder_is_refused_before_any_work(pair, photos, folder, compared, ran):
    ran.clear()
    with pytest.raises(Failure, match=r"made otherwise .*first 16.*first 8"):
        compare(*pair, photos, out=folder, limit=8)
    with pytest.raises(Failure, match=r"made otherwise .*recipe: 'olah_2017:short' there, 'fel_2023' now"):
        compare(*pair, photos, out=folder, limit=16, recipe="fel_2023")
    assert ran == []


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"recipe": "olah"}, UnknownName, "no recipe 'olah'"),
        ({"limit": 0}, BadValue, "limit must be at least 1"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_any_work(pair, photos, tmp_path, ran, settings, error, says):
    ran.clear()
    with pytest.raises(error, match=says):
        compare(*pair, photos, out=tmp_path / "out", **settings)
    assert ran == []
    assert not (tmp_path / "out").exists()


def test_a_study_that_neither_can_answer_is_left_out_before_any_work(pair, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "ASKED", {"attention_distance": {}})
    found = compare(pair[1], tiny_cnn(seed=1), photos, out=tmp_path, limit=4)
    assert found.left_out["attention_distance"].startswith("left out: the study 'attention_distance' needs")
    assert (found.results, found.facts) == ({}, ())
    assert "<table>" not in found.index.read_text()


def test_the_same_model_with_other_weights_is_told_apart(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "ASKED", {"attention_distance": {}, "overview": {}})
    found = compare(tiny_vit(), tiny_vit(seed=1), photos, out=tmp_path, limit=4)
    assert found.models == ("VisionTransformer", "VisionTransformer (2)")
    fact = next(fact for fact in found.facts if fact.study == "attention_distance")
    rows = [found.results["attention_distance"].rows(model=name)[0] for name in found.models]
    assert [fact.readings[name] for name in found.models] == [
        (row["distance"], row["nearest"], row["farthest"]) for row in rows
    ]
    assert fact.describe()["values"] == {row["model"]: row["distance"] for row in rows}
    assert json.loads(json.dumps(found.describe(), allow_nan=False)) == found.describe()


def test_images_fill_several_gram_batches_so_that_cka_has_an_error(compared):
    assert compared.results["similarity"].provenance.settings["gram"] == MODULE._gram(COUNT) == 16
    assert [MODULE._gram(count) for count in (60, 100, 256, 1000)] == [16, 25, 64, 64]


def test_the_docs_say_what_is_asked_and_what_comes_out(compared):
    pages = {name: (DOCS / f"{name}.md").read_text() for name in ("studies", "json")}
    section = pages["studies"].split("## Two models side by side\n")[1].split("\n## ")[0]
    assert [name for name in ASKED if f"`{name}`" not in section] == []
    defaults = {name: each.default for name, each in inspect.signature(compare).parameters.items()}
    asked = ASKED["receptive_field"]
    for said in (
        f"`--limit`: {defaults['limit']} images",
        f"`{defaults['recipe']}` if not given",
        f"Gram matrices of a quarter of the images, {MODULE.LEAST} to {MODULE.MOST}",
        f"{asked['sample']} images and {asked['channels']} channels",
    ):
        assert said in " ".join(section.split()), said
    (line,) = (line for line in pages["json"].splitlines() if line.startswith("| `compare "))
    assert [key for key in compared.describe() if not re.search(rf"\b{key}\b", line)] == []


def test_the_verb_stays_a_verb(pair, photos, tmp_path):
    assert MODULE.compare is compare
    with pytest.raises(UnknownName, match="no recipe 'none'"):
        vitscope.compare(*pair, photos, out=tmp_path / "out", recipe="none")
