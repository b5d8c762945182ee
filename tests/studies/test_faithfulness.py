"""Deletion and insertion: curves against masks made by hand, and what their areas say."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitscope.draws import generator
from vitscope.studies.faithfulness import CURVES, STEPS, Faithful, faithfulness


@pytest.fixture(scope="module")
def folder(noise):
    return noise(4)


@pytest.fixture(scope="module")
def found(vit, images):
    return list(faithfulness(vit, images, "blocks.*.ffn", units=3, seed=1, batch_size=4))


def response(model, site, unit, pixels):
    """The mean over patches of the unit after its activation function, by the module's own parts."""
    seen = {}
    block = model.module.blocks[int(site.split(".")[1])]
    hook = block.mlp.fc2.register_forward_pre_hook(lambda _, given: seen.update(ffn=given[0]))
    with torch.no_grad():
        model.module(model.preprocess(pixels[None]))
    hook.remove()
    return seen["ffn"][0, 1:, unit].double().numpy()


def masked(pixels, gone):
    found = pixels.clone()
    for place in gone:
        row, column = divmod(int(place), 4)
        found[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0
    return found


def test_curves_equal_masks_made_by_hand(vit, folder, found):
    pictures = [torch.from_numpy(np.array(Image.open(file))) for file in sorted(folder.glob("*.png"))]
    pictures = [values.movedim(2, 0).float() / 255 for values in pictures]
    assert [one.site for one in found] == ["blocks.0.ffn", "blocks.1.ffn", "blocks.2.ffn"]
    one = found[1]
    for unit, curves in zip(one.units, one.curves, strict=True):
        means = [response(vit, one.site, unit, pixels).mean() for pixels in pictures]
        pixels = pictures[int(np.argmax(means))]
        plain = response(vit, one.site, unit, pixels)
        black = response(vit, one.site, unit, torch.zeros_like(pixels)).mean()
        if plain.mean() <= black:
            assert np.isnan(curves).all()
            continue
        lots = generator(1, f"{one.site}:{unit}").permutation(16)
        orders = {"map": sorted(range(16), key=lambda place: -plain[place]), "random": list(lots)}
        for (kind, order), curve in zip(CURVES, curves, strict=True):
            for step, value in zip(STEPS, curve, strict=True):
                first = orders[order][: round(step * 16)]
                rest = [place for place in range(16) if place not in first]
                left = response(vit, one.site, unit, masked(pixels, first if kind == "deletion" else rest))
                share = (left.mean() - black) / (plain.mean() - black)
                assert value == pytest.approx(share, abs=1e-3)


def test_curves_begin_and_end_at_the_whole_and_at_black(found):
    for one in found:
        known = one.curves[np.isfinite(one.curves).all(axis=(1, 2))]
        np.testing.assert_allclose(known[:, :2, 0], 1)
        np.testing.assert_allclose(known[:, :2, -1], 0, atol=1e-12)
        np.testing.assert_allclose(known[:, 2:, 0], 0, atol=1e-12)
        np.testing.assert_allclose(known[:, 2:, -1], 1)


def test_rows_are_medians_of_areas():
    straight = np.array([1.0, 0.9, 0.75, 0.5, 0.25, 0.0])
    early = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    curves = np.stack([[early, straight, 1 - early, 1 - straight], [straight] * 4, np.full((4, 6), np.nan)])
    one = Faithful("a", np.array([2, 3, 5]), curves)
    np.testing.assert_allclose(one.areas[:2], [[0.05, 0.5, 0.95, 0.5], [0.5] * 4])
    assert one.row() == {
        "site": "a",
        "units": 2,
        "units_without": 1,
        "deletion": pytest.approx(0.275),
        "deletion_random": pytest.approx(0.5),
        "insertion": pytest.approx(0.725),
        "insertion_random": pytest.approx(0.5),
        "deletion_better": 50.0,
        "insertion_better": 50.0,
    }
    none = Faithful("a", np.array([5]), np.full((1, 4, 6), np.nan)).row()
    assert np.isnan(none["deletion"])
    assert none["units"] == 0


def test_maps_of_the_embedding_are_faithful(cnn, vit, images):
    """A unit of the embedding looks at its own patch only: the map's order is the best there is."""
    (one,) = faithfulness(vit, images, "embed", units=4, seed=0, batch_size=4)
    known = one.areas[np.isfinite(one.areas).all(axis=1)]
    assert len(known)
    assert (known[:, 0] <= known[:, 1] + 1e-9).all()
    assert (known[:, 2] >= known[:, 3] - 1e-9).all()
    assert [each.site for each in faithfulness(cnn, images, "stages.*.*", units=1, seed=0, batch_size=4)]


def test_batches_change_nothing(vit, images, found):
    again = list(faithfulness(vit, images, "blocks.1.ffn", units=3, seed=1, batch_size=2))
    np.testing.assert_allclose(again[0].curves, found[1].curves, rtol=1e-4, atol=1e-4)
