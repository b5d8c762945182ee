"""The study of clusters: its rows are the meter's, shuffles move objects, and the claim on real models."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitscope.data import images
from vitscope.data.annotations import foregrounds
from vitscope.data.source import ImageBatch, image_id
from vitscope.errors import BadValue
from vitscope.interventions.patches import shuffle_patches
from vitscope.meters.clusters import COLUMNS
from vitscope.meters.grouping import measured, patch_objects
from vitscope.studies import study
from vitscope.studies.clusters_published import CURVES, PUBLISHED
from vitscope.tap import read

COUNT = 5


@pytest.fixture(scope="module")
def folder(noise, masked):
    """Pictures of noise, with masks of two objects: all but the first, which has one."""
    masks = np.zeros((COUNT, 32, 32), np.uint8)
    for index, values in enumerate(masks):
        values[: 16 + 4 * index, :16] = 3
        values[8:, 20:] = 3 if index == 0 else 8
    return masked(noise(COUNT), masks)


@pytest.fixture(scope="module")
def source(folder):
    return (
        images(f"folder:{folder}")
        .where(lambda path: "/" not in path)
        .annotated(foregrounds(masks=folder / "masks"))
    )


@pytest.fixture(scope="module")
def result(vit, cnn, source):
    return study("clusters", [vit, cnn], source, grids=(1, 2, 3), seed=5)


def slowly(model, folder, grid):
    """Of the last block: every image by itself, its mask shuffled as a picture."""
    site = model.site("blocks.2")
    rows = []
    for index in range(1, COUNT):
        file = folder / f"{index:02}.png"
        name = (image_id(file.read_bytes()),)
        pixels = torch.from_numpy(np.array(Image.open(file))).movedim(2, 0)[None] / 255
        mask = torch.from_numpy(np.array(Image.open(folder / "masks" / file.name)))
        maps = torch.stack([mask == 3, mask == 8]).float()
        if grid > 1:
            shuffle = shuffle_patches(patch=32 // grid, seed=5)
            batch = ImageBatch(name, name, pixels, torch.zeros(1).long())
            pixels = shuffle.on_view(batch).pixels
            maps = torch.cat([shuffle(one[None, None].expand(1, 3, 32, 32), ids=name)[:, 0] for one in maps])
        values = read(model, pixels, [site])["blocks.2"][0, 1:].numpy()
        owners = patch_objects((maps * 255).to(torch.uint8), (4, 4))
        rows.append(measured(values, owners, (4, 4)))
    return np.stack(rows)


@pytest.mark.parametrize("grid", [1, 2])
def test_rows_are_means_over_images(vit, folder, result, grid):
    expected = slowly(vit, folder, grid)
    (row,) = result.rows(model=result.models[0], grid=grid, site="blocks.2")
    assert row["images"] == COUNT - 1
    for place, measure in enumerate(COLUMNS[:-1]):
        factor = 100 if measure == "noise" else 1
        assert row[measure] == pytest.approx(factor * expected[:, place].mean(), abs=1e-6), measure
    errors = result.by_model("error")[result.models[0]]
    assert errors.shape == (2, 3, len(COLUMNS))
    np.testing.assert_allclose(errors[grid - 1, 2, :-1], expected.std(axis=0, ddof=1) / 2, atol=1e-6)


def test_notes_say_what_is_left_out_and_what_rises(result):
    notes = result.provenance.settings["seen"]["notes"]
    vit, cnn = result.models
    assert f"{vit}: a grid of 3 is left out: it does not divide what the model is shown" in notes
    assert any(note.startswith(f"{vit}: rank correlation with depth over 3 sites: ") for note in notes)
    assert f"{cnn}: sites of another grid use other images: an object needs three places" in notes


def test_maps_are_of_the_first_picture_that_is_used_and_say_how_pure_it_is(result):
    vit = result.models[0]
    assert result.by_model("tsne")[vit].shape == (3, 16, 2)
    assert result.by_model("tsne_sites")[vit].tolist() == ["blocks.0", "blocks.1", "blocks.2"]
    objects = result.by_model("tsne_objects")[vit].reshape(4, 4)
    assert objects.tolist() == [[0, 0, -1, -1], [0, 0, 1, 1], [0, 0, 1, 1], [-1, -1, 1, 1]]
    figures = result.figures()
    assert list(figures) == ["clusters", "shuffled", "tsne"]
    titles = [axes.get_title(loc="left") for axes in figures["tsne"].axes]
    purity = result.by_model("tsne_purity")[vit][0]
    assert titles[0] == f"{vit}\nblocks.0\nneighbours {purity:.2f}, chance 0.45"


def test_equal_seeds_make_equal_results(vit, source, result):
    again = study("clusters", vit, source, grids=(2,), seed=5, batch_size=2)
    assert list(again.table) == result.rows(model=result.models[0])
    np.testing.assert_array_equal(again.arrays["tsne"], result.by_model("tsne")[result.models[0]])


def test_a_picture_may_be_chosen_and_must_have_two_objects(vit, source):
    chosen = study("clusters", vit, source, grids=(), picture="04.png")
    assert chosen.arrays["tsne_objects"].reshape(4, 4)[:, 0].tolist() == [0, 0, 0, 0]
    for picture in ("00.png", "none.png"):
        with pytest.raises(BadValue, match=f"'{picture}' has no two objects of some size, or cannot be read"):
            study("clusters", vit, source, grids=(), picture=picture)


def test_images_with_one_object_each_are_refused(vit, source):
    with pytest.raises(BadValue, match=r"no image of .* has two objects that .* is shown at some size"):
        study("clusters", vit, source.limit(1))


def test_published_rows_are_whole_curves_and_ends():
    assert [row["site"] for row in PUBLISHED if row["grid"] == 1] == [
        f"blocks.{block}" for block in range(12)
    ]
    assert {len(curve) for curve in CURVES.values()} == {12}
    assert [row["purity"] for row in PUBLISHED if row["grid"] == 8] == [0.591, 0.616]
