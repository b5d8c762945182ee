"""Responses to turned and shifted images against a slow re-implementation; two models at once."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitscope.data import images
from vitscope.data.stream import stream
from vitscope.errors import BadValue
from vitscope.interventions.movements import rotate
from vitscope.studies import study
from vitscope.studies.invariance import ANGLES, SHIFTS
from vitscope.studies.invariance_published import PUBLISHED
from vitscope.tap import read

COUNT = 7
UNITS = 6
COLUMNS = (
    "model site movement ratio ratio_low ratio_high median_ratio average_image activation units "
    "units_without images"
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Noise; the last entry is the first picture under another name."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for index in range(COUNT):
        Image.fromarray(draw.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    (folder / "again.png").write_bytes((folder / "0.png").read_bytes())
    return images(f"folder:{folder}")


@pytest.fixture(scope="module")
def result(vit, cnn, photos):
    return study("invariance", [vit, cnn], photos, units=UNITS, seed=1)


def means(model, pixels, name):
    """The mean of every unit over the places on the image."""
    site = model.sites.named(name)
    with torch.no_grad():
        found = read(model, pixels, [site])[name]
    return found[:, site.prefix_tokens :].double().mean(1).numpy()


def pixels_of(model, photos):
    (shard,) = photos.shards()
    (batch,) = stream(photos, shard, model.preprocessing, batch_size=64, on_skip=lambda _: None)
    return batch.pixels


def rolled(pixels, rows, columns):
    """Shifted by hand: each pixel from where it was, around the edge."""
    side = pixels.shape[-1]
    down = [(row - rows) % side for row in range(side)]
    across = [(column - columns) % side for column in range(side)]
    return pixels[:, :, down][:, :, :, across]


@pytest.mark.parametrize(("which", "name"), [(0, "blocks.0.ffn"), (0, "blocks.2.ffn"), (1, "stages.2.0")])
def test_every_ratio_equals_a_slow_re_implementation(vit, cnn, photos, result, which, name):
    model, called = (vit, cnn)[which], result.models[which]
    rows = result.rows(model=called, movement="rotation")
    place = [row["site"] for row in rows].index(name)
    units = result.by_model("units")[called][place]
    units = units[np.isfinite(units)].astype(int)
    pixels = pixels_of(model, photos)
    plain = means(model, pixels, name)
    steps = {
        "rotation": [means(model, rotate(angle)(pixels), name) for angle in ANGLES],
        "shift": [means(model, rolled(pixels, *by), name) for by in SHIFTS],
    }
    for movement, found in steps.items():
        ratios = []
        for unit in units:
            best = plain[:, unit].argmax()
            each = np.array([step[best, unit] for step in found]) / plain[best, unit]
            ratios.append(each.mean() if plain[best, unit] > 0 else np.nan)
        own = result.by_model(f"{movement}_ratio")[called][place][: len(units)]
        assert own == pytest.approx(np.array(ratios), rel=1e-4, abs=1e-5, nan_ok=True)
        (row,) = result.rows(model=called, movement=movement, site=name)
        assert row["ratio"] == pytest.approx(np.nanmean(ratios), rel=1e-4)
        assert row["median_ratio"] == pytest.approx(np.nanmedian(ratios), rel=1e-4)
        best = plain[:, units].max(axis=0)
        positive = best > 0
        assert row["activation"] == pytest.approx(best[positive].mean(), rel=1e-5)
        average = plain[:, units].mean(axis=0)
        assert row["average_image"] == pytest.approx((average / best)[positive].mean(), rel=1e-4, abs=1e-6)
        assert (row["units"], row["units_without"]) == (positive.sum(), (~positive).sum())


def test_the_table_is_complete(result):
    assert [list(row) for row in result.table] == [COLUMNS.split()] * len(result.table)
    sites = [row["site"] for row in result.rows(model=result.models[0])]
    assert sites == [f"blocks.{block}.ffn" for block in range(3) for _ in range(2)]
    assert [row["movement"] for row in result.table] == ["rotation", "shift"] * (len(result.table) // 2)
    for row in result.table:
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["images"] <= min(COUNT, UNITS)
    assert result.provenance.settings["seen"]["images"] == COUNT + 1


def test_shifts_move_rows_and_columns_and_not_channels():
    assert len(SHIFTS) == 16
    assert SHIFTS[:5] == ((0, 0), (0, 4), (0, 8), (0, 12), (4, 0))
    assert [angle / 20 for angle in ANGLES] == list(range(18))


def test_curves_begin_with_the_unmoved_image(result):
    for movement, steps in (("rotation", 18), ("shift", 16)):
        for model in result.models:
            curve = result.by_model(f"{movement}_curve")[model]
            assert curve.shape[1] == steps
            assert curve[:, 0] == pytest.approx(np.ones(len(curve)))
            ratios = [row["ratio"] for row in result.rows(model=model, movement=movement)]
            assert curve.mean(axis=1) == pytest.approx(ratios)


def test_units_depend_on_the_seed_and_the_site_alone(vit, photos, result):
    few = images(f"{photos.name}").limit(3)
    again = study("invariance", vit, few, units=UNITS, seed=1, batch_size=2)
    assert np.array_equal(again.arrays["units"], result.by_model("units")[result.models[0]])
    other = study("invariance", vit, few, units=UNITS, seed=2, sites=("blocks.1.ffn",))
    assert not np.array_equal(other.arrays["units"][0], again.arrays["units"][1])
    for row in other.table:
        assert row["site"] == "blocks.1.ffn"


def test_an_edge_of_black_is_another_shift(vit, photos, result):
    black = study("invariance", vit, photos, units=UNITS, seed=1, edge="black", sites=("blocks.0.ffn",))
    ours = result.rows(model=result.models[0], site="blocks.0.ffn")
    assert black.table[0]["ratio"] == pytest.approx(ours[0]["ratio"])
    assert black.table[1]["ratio"] != pytest.approx(ours[1]["ratio"])


def test_progress_names_the_pass(vit, photos):
    told = []
    study(
        "invariance",
        vit,
        photos,
        units=1,
        sites=("blocks.0.ffn",),
        on_progress=lambda *said: told.append(said),
    )
    assert told == [
        (f"{vit.name}: best images", COUNT + 1, COUNT + 1),
        (f"{vit.name}: moved images", 1, 1),
    ]


def test_published_numbers_have_twelve_blocks_of_each():
    rotation = [row["ratio"] for row in PUBLISHED if row["movement"] == "rotation"]
    shift = [row for row in PUBLISHED if row["movement"] == "shift"]
    assert (len(rotation), len(shift)) == (12, 12)
    assert max(rotation) == rotation[7] == 0.62
    assert all("channels for columns" in row["source"] for row in shift)


def test_figures(result, tmp_path):
    assert list(result.figures()) == ["ratio", "rotation"]
    result.save(tmp_path)
    assert (tmp_path / "rotation.png").is_file()


def test_settings_out_of_range(vit, photos):
    with pytest.raises(BadValue, match="at least 1, not 0"):
        study("invariance", vit, photos, units=0)
    with pytest.raises(BadValue, match=r"no edge 'wrp'\. There are: wrap, black"):
        study("invariance", vit, photos, edge="wrp")
