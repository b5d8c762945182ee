"""Which models answer: of one without logits every study of answers says that it is left out."""

import pytest
from torch import nn

from vitscope.data import images
from vitscope.models import load
from vitscope.studies import study
from vitscope.studies.classifiers import classifiers
from vitscope.testing.doubles import tiny_cnn, tiny_vit


@pytest.fixture(scope="module")
def models():
    headless = load(nn.Sequential(tiny_cnn().module.conv1), sample=(32, 32), device="cpu")
    return {"headless": headless, "vit": tiny_vit(), "cnn": tiny_cnn()}


def test_those_without_logits_are_left_out_with_a_note(models):
    found, notes = classifiers(models)
    assert found == {name: models[name] for name in ("vit", "cnn")}
    assert notes == ["headless is left out: it has no logits"]
    assert classifiers({"vit": models["vit"]})[1] == []


def test_a_study_goes_on_with_the_others(models, tinted):
    folder = tinted(4)
    source = images(f"folder:{folder}", labels=folder / "labels.csv")
    found = study("frequency", list(models.values())[:2], source, radii=(3.0,), filters=("disk",))
    headless, vit = found.models
    assert {row["model"] for row in found.table} == {vit}
    assert f"{headless} is left out: it has no logits" in found.provenance.settings["seen"]["notes"]
