"""Shuffled pieces: rows against a slow re-implementation, and that order is nothing without positions."""

import numpy as np
import pytest
import torch
from PIL import Image

import vitscope as vs
from vitscope.data.annotations import foregrounds
from vitscope.data.source import image_id
from vitscope.draws import generator
from vitscope.errors import BadValue, UnknownSite
from vitscope.interventions.positions import without_positions
from vitscope.models import load
from vitscope.studies import study

COUNT = 6


@pytest.fixture(scope="module")
def folder(tinted, masked):
    masks = np.zeros((COUNT, 32, 32), np.uint8)
    masks[:, :20, :16], masks[:, 8:, 20:] = 3, 8
    return masked(tinted(COUNT), masks)


@pytest.fixture(scope="module")
def source(folder):
    whole = vs.images(f"folder:{folder}", labels=folder / "labels.csv")
    return whole.where(lambda path: "/" not in path).annotated(foregrounds(masks=folder / "masks"))


@pytest.fixture(scope="module")
def result(vit, cnn, source):
    return study("shuffle", [vit, cnn], source, grids=(2, 4, 5), seed=7)


def shuffled(pixels, name, grid, seed):
    """Piece t of the new picture is piece order[t] of the old one, written by hand."""
    side = pixels.shape[-1] // grid
    order = generator(seed, name).permutation(grid * grid)
    found = pixels.clone()
    for to, of in enumerate(order):
        rows, columns = divmod(to, grid), divmod(int(of), grid)
        found[:, rows[0] * side : (rows[0] + 1) * side, rows[1] * side : (rows[1] + 1) * side] = pixels[
            :, columns[0] * side : (columns[0] + 1) * side, columns[1] * side : (columns[1] + 1) * side
        ]
    return found


def answers(model, folder, grid, *, positions):
    files = sorted(folder.glob("*.png"))
    pictures = [torch.from_numpy(np.array(Image.open(file))).movedim(2, 0) / 255 for file in files]
    names = [image_id(file.read_bytes()) for file in files]
    moved = torch.stack([shuffled(*pair, grid, 7) for pair in zip(pictures, names, strict=True)])
    with torch.no_grad():
        if positions == "kept":
            return model.module(model.preprocess(moved))
        with without_positions(model):
            return model.module(model.preprocess(moved))


def test_rows_equal_a_slow_re_implementation(vit, cnn, folder, result):
    rows = 0
    for name, model in zip(result.models, (vit, cnn), strict=True):
        for row in result.rows(model=name):
            logits = answers(model, folder, row["grid"], positions=row["positions"])
            plain = answers(model, folder, 1, positions=row["positions"])
            same = (logits.argmax(1) == plain.argmax(1)).double().mean().item()
            right = (logits.argmax(1) == torch.arange(COUNT)).double().mean().item()
            assert row["agreement"] == pytest.approx(100 * same)
            assert row["top1"] == pytest.approx(100 * right)
            assert row["agreement_low"] <= row["agreement"] <= row["agreement_high"]
            rows += 1
    assert rows == 3 * 2 + 3  # a CNN has no table of positions


def test_without_positions_the_order_of_patches_is_nothing(vit, folder, result):
    plain, moved = (answers(vit, folder, grid, positions="none") for grid in (1, 4))
    kept = [answers(vit, folder, grid, positions="kept") for grid in (1, 4)]
    torch.testing.assert_close(moved, plain, rtol=0, atol=1e-5)
    assert (kept[1] - kept[0]).abs().max() > 1e-3  # a fresh model hardly uses its positions
    (row,) = result.rows(model=result.models[0], positions="none", grid=4)
    assert (row["agreement"], row["cka"]) == (100, pytest.approx(1, abs=1e-4))


def test_cka_is_of_every_site_with_itself_on_whole_images(vit, result):
    maps = result.by_model("cka")[result.models[0]]
    assert maps.shape == (2, 3, 3)
    assert result.by_model("sites")[result.models[0]].tolist() == ["blocks.0", "blocks.1", "blocks.2"]
    np.testing.assert_allclose(maps[:, 0], 1)
    (row,) = result.rows(model=result.models[0], positions="kept", grid=2)
    assert row["cka"] == pytest.approx(maps[0, 1].mean())
    assert row["cka_last"] == pytest.approx(maps[0, 1, -1])


def test_clusters_are_those_of_the_study_of_clusters(vit, source, result):
    other = study("clusters", vit, source, grids=(2,), seed=7)
    for grid in (1, 2):
        (row,) = result.rows(model=result.models[0], positions="kept", grid=grid)
        (same,) = other.rows(grid=grid, site="blocks.2")
        assert row["images_with_objects"] == same["images"] == COUNT
        for name in ("purity", "silhouette", "in_object_cosine", "neighbour_purity", "neighbour_place"):
            assert row[name] == pytest.approx(same[name])


def test_notes_and_figures(result):
    notes = result.provenance.settings["seen"]["notes"]
    vit, cnn = result.models
    assert f"{vit}: a grid of 5 is left out: it does not divide what the model is shown" in notes
    assert f"{cnn}: it has no table of positions to take away" in notes
    assert list(result.figures()) == ["answers", "cka", "clusters"]


def test_without_labels_and_objects_there_is_agreement_alone(vit, noise):
    found = study("shuffle", vit, vs.images(f"folder:{noise(4)}"), grids=(2,), positions=("kept",))
    assert {"top1", "purity"} & {name for row in found.table for name in row} == set()
    assert list(found.figures()) == ["answers", "cka"]


def test_what_cannot_be_asked(vit, source):
    from torch import nn

    with pytest.raises(BadValue, match="positions are 'kept' or 'none', not lost"):
        study("shuffle", vit, source, positions=("lost",))
    with pytest.raises(BadValue, match="shuffle needs at least 4 images"):
        study("shuffle", vit, source.limit(2))
    bare = load(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)), sample=(32, 32), device="cpu")
    with pytest.raises(UnknownSite, match=r"Sequential has no site that matches 'blocks\.\*' or"):
        study("shuffle", bare, source)
