"""`vitscope look`: a page and its path, JSON and nothing else, and one clear line for a file that is none."""

import json
import time

import pytest
from PIL import Image
from rich.console import Console

import vitscope
from vitscope import cli
from vitscope.commands import console

MODEL = "vitscope:vit_mini"


@pytest.fixture(autouse=True)
def streams(monkeypatch):
    monkeypatch.setattr(console, "out", Console(width=200, markup=False, highlight=False))
    monkeypatch.setattr(console, "err", Console(stderr=True, width=200, markup=False, highlight=False))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "stripes.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return path


def run(*arguments, capsys):
    code = cli._run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_look_as_json(photo, tmp_path, capsys):
    code, out, err = run("look", MODEL, photo, "-o", tmp_path / "out", "--units", 2, "--json", capsys=capsys)
    assert code == 0, err
    document = json.loads(out)
    assert list(document) == [
        *("model", "image", "prediction", "heads", "rollout", "units", "groups", "notes", "provenance"),
        "page",
    ]
    assert (document["model"], document["image"]) == (MODEL, "stripes.png")
    assert set(document["prediction"][0]) == {"index", "name", "probability"}
    assert len(document["units"]) == 2 * len(document["groups"])
    assert document["page"] == str(tmp_path / "out" / "index.html")
    assert vitscope.explain(tmp_path / "out" / "units.png").settings["units"] == 2


def test_a_look_for_people_ends_with_the_path(photo, monkeypatch, capsys):
    monkeypatch.chdir(photo.parent)
    code, out, err = run("look", MODEL, photo, "--weights", "random", capsys=capsys)
    assert code == 0, err
    assert out.startswith("stripes.png: ")
    assert out.splitlines()[-1] == "looks/stripes/index.html"
    assert (photo.parent / "looks" / "stripes" / "index.html").is_file()


def test_a_file_that_is_none_is_told_before_the_model_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vitscope.models.load", lambda *_, **__: pytest.fail("the model was loaded first"))
    code, out, err = run("look", MODEL, tmp_path / "no.jpg", "-o", tmp_path, capsys=capsys)
    assert (code, out, err) == (2, "", f"MissingPath: no such file: {tmp_path / 'no.jpg'}\n")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, out, err = run("look", MODEL, tmp_path / "cut.png", "-o", tmp_path, capsys=capsys)
    assert (code, out) == (2, "")
    assert err.startswith("BadValue: cannot read ")
    assert len(err.splitlines()) == 1


@pytest.mark.real
def test_a_real_photograph_in_less_than_five_seconds_once_the_model_is_loaded(shared, tmp_path):
    weights = str(shared / "weights" / "vit_tiny_patch16_224.safetensors")
    model = vitscope.load("timm:vit_tiny_patch16_224", weights=weights)
    (photo,) = (shared / "imagenet1k-sample" / "n02099601").iterdir()
    begun = time.process_time()
    found = vitscope.look(model, photo)
    found.save(tmp_path)
    assert time.process_time() - begun < 5
    assert found.guesses[0].name == "golden retriever"
    assert (len(found.heads), len(found.rollout), len(found.units), len(found.groups)) == (36, 12, 48, 12)
