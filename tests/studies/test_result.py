"""Results: plain JSON, files that are whole or absent, tables for people."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from vitscope.errors import BadValue, Failure, MissingPath, UnknownName
from vitscope.provenance import Provenance, explain
from vitscope.studies.result import Result, columns_of, joined, plain, shown


def made(**settings) -> Provenance:
    return Provenance(
        kind="study", model="a", weights="sha256:1", preprocessing={}, source="sha256:2", settings=settings
    )


def drawn(result):
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([1, 2])
    return {"curves": figure}


def a_result(**changes) -> Result:
    facts = {
        "study": "frequency",
        "models": ("a",),
        "table": (
            {"model": "a", "radius": 4, "top1": 12.5, "note": None},
            {"model": "a", "radius": 8, "top1": float("nan"), "held": True},
        ),
        "arrays": {
            "map": np.array([[1.0, np.inf], [3.0, 4.0]]),
            "sites": np.array(["x", "y"]),
            "cube": np.zeros((2, 2, 2)),
        },
        "published": ({"model": "ViT-B/16", "top1": 84.2, "source": "Table 1"},),
        "provenance": made(radius=4),
        "draw": drawn,
    }
    return Result(**{**facts, **changes})


def test_describe_has_exactly_six_names_and_only_plain_values():
    facts = a_result().describe()
    assert list(facts) == ["study", "models", "table", "arrays", "published", "provenance"]
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["table"][1]["top1"] is None
    assert facts["arrays"]["map"] == [[1.0, None], [3.0, 4.0]]
    assert facts["arrays"]["sites"] == ["x", "y"]
    assert facts["provenance"]["kind"] == "study"


def test_arrays_of_several_models_are_by_model():
    several = a_result(models=("a", "b"), arrays={"map": {"b": np.array([1, 2])}})
    assert several.describe()["arrays"] == {"map": {"b": [1, 2]}}
    assert list(several.by_model("map")) == ["b"]
    assert a_result().by_model("map")["a"].shape == (2, 2)
    with pytest.raises(UnknownName, match=r"no array 'maps'. Nearest: 'map'. There are: map, sites, cube."):
        a_result().by_model("maps")


def test_rows_are_found_by_what_they_say():
    assert a_result().rows(radius=4) == [{"model": "a", "radius": 4, "top1": 12.5, "note": None}]
    assert a_result().rows(radius=4, model="b") == []


def test_save_writes_everything_and_open_reads_it(tmp_path):
    folder = a_result().save(tmp_path / "deep" / "out")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "result.json",
        "table.csv",
        "curves.svg",
        "curves.png",
        "arrays/map.csv",
        "arrays/sites.csv",
    }
    with (folder / "table.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert rows[0] == {"model": "a", "radius": "4", "top1": "12.5", "note": "", "held": ""}
    assert (folder / "arrays" / "map.csv").read_text() == "1.0,\n3.0,4.0\n"
    assert (folder / "arrays" / "sites.csv").read_text() == "x\ny\n"
    again = Result.open(folder)
    assert again.describe() == a_result().describe()
    assert np.isnan(again.arrays["map"][0, 1])
    assert again.arrays["cube"].shape == (2, 2, 2)


def test_the_same_result_leaves_the_same_bytes(tmp_path):
    one, two = (a_result().save(tmp_path / name) for name in "ab")
    a_result().save(one)
    for path in one.rglob("*.*"):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes(), path.name


def test_every_file_knows_how_it_was_made(tmp_path):
    folder = a_result().save(tmp_path)
    assert explain(folder / "result.json") == made(radius=4)
    assert explain(folder / "curves.png") == made(radius=4)
    assert made(radius=4).weights in (folder / "curves.svg").read_text()
    with Image.open(folder / "curves.png") as picture:
        assert picture.size[0] > 200


def test_fault_057_a_folder_with_another_result(tmp_path):
    a_result().save(tmp_path)
    before = (tmp_path / "table.csv").read_bytes()
    with pytest.raises(Failure, match=r"made otherwise \(radius: 4 there, 8 now\)\. Choose another folder"):
        a_result(provenance=made(radius=8), table=()).save(tmp_path)
    assert (tmp_path / "table.csv").read_bytes() == before


def test_a_write_that_fails_leaves_no_result(tmp_path, monkeypatch):
    def fail(self, *_):
        raise OSError("no more")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(Exception, match="no more"):
        a_result().save(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_without_a_result(tmp_path):
    with pytest.raises(MissingPath, match=r"no result of a study in .* it has no result.json"):
        Result.open(tmp_path)
    (tmp_path / "result.json").write_text('{"study": "x"}')
    with pytest.raises(BadValue, match="is not the result of a study"):
        Result.open(tmp_path)


def test_a_study_without_a_figure():
    with pytest.raises(BadValue, match="'frequency' has no figure"):
        a_result(draw=None).plot()
    assert a_result().plot().axes


def test_what_people_see():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(a_result())
    shown = console.export_text()
    assert "frequency: a" in shown
    assert "12.5" in shown
    assert "–" in shown
    html = a_result(table=({"model": "a", "what": "<b>"},))._repr_html_()
    assert "&lt;b&gt;" in html
    assert repr(a_result()) == "<Result of 'frequency' on a: 2 rows, arrays map, sites, cube>"


def test_columns_rows_and_names():
    assert columns_of([{"b": 1}, {"a": 2, "model": "m"}]) == ["model", "b", "a"]
    rows = [{"model": "m", "top1": 72.125, "top1_low": 70.04, "top1_high": 74.96, "n": 3}, {"model": "n"}]
    assert shown(rows) == [{"model": "m", "top1": "72.12 (70 to 75)", "n": "3"}, {"model": "n"}]
    assert shown([{"a": None, "a_low": None, "a_high": float("nan")}]) == [{"a": "–"}]


def test_only_what_json_has_words_for():
    assert plain({"a": np.float32(0.5), 3: (np.int64(1), np.array([True]))}) == {"a": 0.5, "3": [1, [True]]}
    with pytest.raises(BadValue, match="not object"):
        plain([object()])


def test_provenances_of_several_models_become_one():
    one = Provenance("study", "a", "sha256:1", {"size": 1}, device="cpu")
    two = Provenance("study", "b", "sha256:2", {"size": 2}, device="cuda")
    both = joined({"a": one, "b": two})
    assert (both.model, both.weights, both.device) == ("a, b", "sha256:1, sha256:2", "cpu, cuda")
    assert both.preprocessing == {"a": {"size": 1}, "b": {"size": 2}}
    assert Provenance.from_json(both.to_json()) == both
    with pytest.raises(BadValue, match="at least one model"):
        joined({})
