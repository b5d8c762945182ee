"""Facts of models, counted again; accuracy where labels are those of the logits, and why not elsewhere."""

import pytest
import torch

import vitscope as vs
from vitscope.models.vision_model import VisionModel
from vitscope.studies import study
from vitscope.testing import tiny_vit


@pytest.fixture(scope="module")
def folder(tinted):
    return tinted(12)


@pytest.fixture(scope="module")
def result(vit, cnn, images):
    return study("overview", [vit, cnn], images)


def test_facts_are_those_of_the_modules(vit, cnn, result):
    for model, blocks in ((vit, len(vit.module.blocks)), (cnn, 5)):
        (row,) = result.rows(model=model.name)
        assert row["parameters"] == sum(weight.numel() for weight in model.module.state_dict().values()) - (
            sum(buffer.numel() for buffer in model.module.buffers())
        )
        assert (row["blocks"], row["input"], row["classes"]) == (blocks, "32x32", 10)
        assert row["sites"] == len(model.sites)


def test_accuracy_is_that_of_the_models_own_answers(vit, cnn, pixels, result):
    labels = torch.arange(12) % 10
    for model in (vit, cnn):
        with torch.no_grad():
            best = model.module(model.preprocess(pixels)).topk(5).indices
        (row,) = result.rows(model=model.name)
        assert row["top1"] == pytest.approx(100 * float((best[:, 0] == labels).float().mean()))
        assert row["top5"] == pytest.approx(100 * float((best == labels[:, None]).any(1).float().mean()))
        assert row["top1_low"] <= row["top1"] <= row["top1_high"]
        assert row["images"] == 12
    assert result.provenance.settings["seen"]["images"] == 12


def test_figures_show_accuracy_where_there_is_some_and_the_size(vit, cnn, result):
    accuracy, parameters = result.figures().values()
    (row, _) = result.table
    (axes,) = accuracy.axes
    assert [bar.get_height() for bar in axes.patches[:2]] == [row["top1"], row["top5"]]
    (axes,) = parameters.axes
    assert [bar.get_height() * 1e6 for bar in axes.patches] == [row["parameters"] for row in result.table]
    assert [label.get_text() for label in axes.get_xticklabels()] == [vit.name, cnn.name]


def test_why_there_is_no_accuracy(vit, images, folder):
    def notes(model, source):
        found = study("overview", model, source)
        assert "top1" not in found.table[0]
        assert list(found.figures()) == ["parameters"]
        return found.provenance.settings["seen"]["notes"]

    unlabelled = vs.images(f"folder:{folder}")
    assert notes(vit, unlabelled) == [f"no accuracy of {vit.name}: {unlabelled.name} has no labels"]
    (said,) = notes(tiny_vit(num_classes=4), images)
    assert "has 10 classes, but VisionTransformer 4 logits" in said
    sites = [site for site in vit.sites if site.name != "logits"]
    (said,) = notes(VisionModel(vit.module, "tower", preprocessing=vit.preprocessing, sites=sites), images)
    assert said.endswith("it has no logits")
