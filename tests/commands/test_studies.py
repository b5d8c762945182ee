"""`vitscope study`, `studies` and `report`: JSON and nothing else, files, and one clear line for mistakes."""

import csv
import importlib
import json

import pytest
from rich.console import Console

import vitscope
from vitscope import cli
from vitscope.commands import console, studies
from vitscope.studies import STUDIES

PAIR = ["vitscope:vit_mini", "vitscope:cnn_mini"]
QUICK = ["--set", "radii=8", "--set", "directions=low"]


@pytest.fixture(scope="module")
def opened():
    return {name: vitscope.load(name, weights="random", device="cpu") for name in PAIR}


@pytest.fixture(autouse=True)
def prepared(monkeypatch, opened):
    """Models that are loaded once, with a note of how; and streams that are this test's own."""
    asked = []

    def load(name, **settings):
        asked.append((name, settings["weights"]))
        return opened[name]

    monkeypatch.setattr("vitscope.models.load", load)
    monkeypatch.setattr(console, "out", Console(width=200, markup=False, highlight=False))
    monkeypatch.setattr(console, "err", Console(stderr=True, width=200, markup=False, highlight=False))
    return asked


def run(*arguments, capsys):
    code = cli._run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_study_as_json(tmp_path, capsys):
    asked = ["study", "frequency", *PAIR, "--images", "demo:", "-o", tmp_path / "out", "--limit", 6, *QUICK]
    code, out, err = run(*asked, "--json", capsys=capsys)
    assert code == 0, err
    document = json.loads(out)
    assert list(document) == ["study", "models", "table", "arrays", "published", "provenance"]
    assert document == json.loads((tmp_path / "out" / "result.json").read_text())
    assert document["models"] == PAIR
    assert [(row["model"], row["radius"]) for row in document["table"]] == [
        (model, radius) for model in PAIR for radius in (8.0, 32.0)
    ]
    settings = document["provenance"]["settings"]
    assert settings["radii"] == [8.0]
    assert settings["seen"]["images"] == 6
    assert "the images have 13 classes and vitscope:vit_mini has 200 logits" in settings["seen"]["notes"][0]
    with (tmp_path / "out" / "table.csv").open(newline="") as lines:
        assert len(list(csv.DictReader(lines))) == 4
    assert vitscope.explain(tmp_path / "out" / "relative.png").settings["study"] == "frequency"


def test_a_study_for_people_ends_with_the_path_and_a_report_joins_it(tmp_path, capsys):
    folder = tmp_path / "out"
    asked = ["study", "frequency", PAIR[0], "--images", "demo:", "-o", folder, "--limit", 4, *QUICK]
    code, out, err = run(*asked, capsys=capsys)
    assert code == 0, err
    assert out.splitlines()[-1] == str(folder)
    assert "top1" in out
    assert f"{PAIR[0]}: 4 of 4" in err

    code, out, _ = run("report", folder, "-o", tmp_path / "report", "--json", capsys=capsys)
    index = tmp_path / "report" / "index.html"
    assert (code, json.loads(out)) == (0, {"report": str(index), "results": [str(folder)]})
    assert index.is_file()
    assert "filtered away?" in (tmp_path / "report" / "frequency.html").read_text()

    code, out, _ = run("report", folder, "-o", tmp_path / "report", capsys=capsys)
    assert (code, out) == (0, f"{index}\n")


def test_two_models_compared(tmp_path, capsys, monkeypatch):
    module = importlib.import_module("vitscope.compare")
    monkeypatch.setattr(module, "ASKED", {"skips": {}, "attention_distance": {}, "overview": {}})
    asked = ["compare", *PAIR, "demo:", "-o", tmp_path / "out", "--limit", 4]
    code, out, err = run(*asked, capsys=capsys)
    index = tmp_path / "out" / "index.html"
    assert code == 0, err
    assert out.splitlines()[-1] == str(index)
    assert index.is_file()
    assert "skips: vitscope:vit_mini: 4 of 4" in err
    assert "attention_distance: vitscope:cnn_mini is left out: it has no attention" in " ".join(out.split())

    code, out, err = run(*asked, "--json", capsys=capsys)
    document = json.loads(out)
    assert (code, "4 of 4" in err) == (0, False), "it was computed again"
    assert set(document) == {"report", "models", "images", "summary", "results", "left_out"}
    assert (document["report"], document["models"]) == (str(index), PAIR)
    assert document["images"] == "demo: | drawn with seed 0 | first 4"
    assert all(set(line) == {"quantity", "study", "values"} for line in document["summary"])
    sizes = [line["values"] for line in document["summary"] if line["quantity"] == "parameters"]
    assert sizes == [{PAIR[0]: 2757896, PAIR[1]: 1653752}]
    folder = tmp_path / "out" / "results"
    assert document["results"] == {
        name: str(folder / name) for name in ("skips", "attention_distance", "overview")
    }
    assert list(document["left_out"]) == ["skips", "attention_distance"]  # random weights: its branches are 0

    code, _, err = run(*asked[:-1], 5, capsys=capsys)
    assert code == 1
    assert "made otherwise" in err


def test_labels_from_a_file(tmp_path, capsys):
    source = vitscope.images("demo:").limit(4)
    (tmp_path / "photos").mkdir()
    rows = []
    for entry in source.read(source.shards()[0]):
        (tmp_path / "photos" / entry.path.replace("/", "_")).write_bytes(entry.content)
        rows.append((entry.path.replace("/", "_"), 7))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "index"), *rows])
    asked = ["study", "frequency", PAIR[0], "--images", tmp_path / "photos", "-o", tmp_path / "out", *QUICK]
    code, out, err = run(*asked, capsys=capsys)
    assert (code, out) == (2, "")
    assert "the study 'frequency' needs labels" in err
    assert "Give --labels FILE" in err
    code, _, err = run(*asked, "--labels", tmp_path / "labels.csv", capsys=capsys)
    assert code == 0, err


def test_fault_057_another_result_is_there(tmp_path, capsys):
    asked = ["study", "frequency", PAIR[0], "--images", "demo:", "-o", tmp_path, *QUICK]
    assert run(*asked, "--limit", 3, capsys=capsys)[0] == 0
    code, _, err = run(*asked, "--limit", 4, capsys=capsys)
    assert code == 1
    assert "made otherwise" in err
    assert "first 3' there" in err


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["frequencies", PAIR[0]], "no study 'frequencies'. Nearest: 'frequency'"),
        (["frequency", PAIR[0], "--set", "radius=3"], "no setting 'radius'. Nearest: 'radii'"),
        (["frequency", PAIR[0], "--set", "radii=x"], "radii is a float such as 4.0, not 'x'"),
        (["frequency", PAIR[0], "--limit", "0"], "--limit"),
        (["foreground", PAIR[0], "--mask-values", "x"], "numbers and ranges such as 1-91,95, not 'x'"),
        (["foreground", PAIR[0], "--edges", "pixels"], "edges says how boxes are read: give boxes too"),
        (
            ["frequency", *PAIR, "--weights", "a", "--weights", "b", "--weights", "c"],
            "3 times --weights for 2",
        ),
    ],
)
def test_fault_055_what_cannot_be_asked(wrong, says, tmp_path, capsys, prepared):
    code, out, err = run("study", *wrong, "--images", "demo:", "-o", tmp_path / "out", capsys=capsys)
    assert (code, out) == (2, "")
    assert says in err
    assert prepared == [], "a model was loaded first"
    assert not (tmp_path / "out").exists()


def test_fault_061_an_output_that_cannot_be_written(tmp_path, capsys, prepared):
    (tmp_path / "file").write_text("in the way")
    code, _, err = run(
        "study", "frequency", PAIR[0], "--images", "demo:", "-o", tmp_path / "file" / "a", capsys=capsys
    )
    assert code == 2
    assert "NotWritable" in err
    assert prepared == []


@pytest.mark.parametrize(
    ("weights", "given"),
    [
        ([], ["pretrained", "pretrained"]),
        (["random"], ["random", "random"]),
        (["a.safetensors", "random"], ["a.safetensors", "random"]),
    ],
)
def test_weights_for_all_models_or_one_for_each(weights, given):
    assert studies._one_each(weights, PAIR) == given


def test_numbers_of_a_text():
    assert studies._numbers("1-3, 7,9-9") == {1, 2, 3, 7, 9}


def test_studies_as_json(capsys):
    code, out, _ = run("studies", "--json", capsys=capsys)
    found = json.loads(out)
    assert code == 0
    assert list(found) == list(STUDIES)
    facts = {"name", "question", "method", "citation", "needs", "caveats", "settings"}
    assert all(set(study) == facts for study in found.values())
    code, out, _ = run("studies", capsys=capsys)
    assert "frequency" in out
    assert "directions=low,high" in out
