"""Dreams by depth: medians, rank correlations and best images, each again from the dreams and the images."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from vitscope.data import images
from vitscope.data.stream import stream
from vitscope.dream import dream
from vitscope.errors import BadValue, Unsuited
from vitscope.studies import study
from vitscope.studies.appearance import from_text, jpeg_bits, roughness, spectral_slope
from vitscope.studies.dreamt import short
from vitscope.tap import read
from vitscope.testing.doubles import tiny_cnn, tiny_vit

SETTINGS = {"units": 3, "steps": 2, "copies": 1, "seed": 1}
SITES = {
    "VisionTransformer": [f"blocks.{block}.ffn" for block in range(3)],
    "ResNet": ["stages.0.0", "stages.1.0", "stages.1.1", "stages.2.0", "stages.3.0"],
}
MEASURES = {"spectral_slope": spectral_slope, "jpeg_bits": jpeg_bits, "high_frequency": roughness}


@pytest.fixture(scope="module")
def models():
    return [tiny_vit(), tiny_cnn()]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ten flat pictures of different colours, so that a small picture of one can be told from the others."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for index in range(10):
        flat = np.full((40, 36, 3), draw.integers(0, 256, 3), dtype=np.uint8)
        Image.fromarray(flat).save(folder / f"{index}.png")
    return images(f"folder:{folder}")


@pytest.fixture(scope="module")
def result(models, photos):
    return study("progression", models, photos, best=2, **SETTINGS)


def ranks(values):
    """Of each the number of smaller ones, and half the others that are equal."""
    return [
        sum(one < value for one in values) + (sum(one == value for one in values) - 1) / 2 for value in values
    ]


def spearman(xs, ys):
    return np.corrcoef(ranks(list(xs)), ranks(list(ys)))[0, 1]


def test_measures_are_those_of_the_dreams(models, result):
    recipe = short("vitscope", steps=2, copies=1)
    for model in models:
        name, sites = model.name, SITES[model.name]
        assert result.by_model("sites")[name].tolist() == sites
        for site, numbers, place in zip(sites, result.by_model("units")[name], range(9), strict=False):
            made = dream(model, [f"{site}:{number}" for number in numbers.tolist()], recipe=recipe, seed=1)
            pictures = [
                (one.pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
                for one in made
                if one.trust["status"] == "ok"
            ]
            (row,) = result.rows(model=name, part="site", site=site)
            assert (row["units"], row["left_out"]) == (len(pictures), 3 - len(pictures))
            for measure, of in MEASURES.items():
                found = result.by_model(measure)[name][place]
                expected = [of(picture) for picture in pictures]
                assert found[np.isfinite(found)] == pytest.approx(expected, rel=0.03, abs=0.05)
                if expected:
                    assert row[measure] == pytest.approx(np.median(found[np.isfinite(found)]))
                    assert row[f"{measure}_q25"] <= row[measure] <= row[f"{measure}_q75"]


def test_trends_are_rank_correlations_with_depth(result):
    for name, sites in SITES.items():
        deep = [place / (len(sites) - 1) for place in range(len(sites))]
        assert [row["depth"] for row in result.rows(model=name, part="site")] == deep
        for measure in MEASURES:
            values = result.by_model(measure)[name]
            (row,) = result.rows(model=name, part="trend", measure=measure)
            known = np.isfinite(values)
            every = np.repeat(deep, values.shape[1]).reshape(values.shape)
            assert row["units"] == known.sum()
            assert row["rho"] == pytest.approx(spearman(every[known], values[known]))
            medians = [row[measure] for row in result.rows(model=name, part="site")]
            there = [place for place, value in enumerate(medians) if math.isfinite(value)]
            assert row["rho_of_medians"] == pytest.approx(
                spearman([deep[place] for place in there], [medians[place] for place in there])
            )


def test_p_is_that_of_students_t(result):
    """What scipy computes: t = rho sqrt((n - 2) / (1 - rho^2)) with n - 2 degrees of freedom."""
    from scipy.stats import t

    for row in result.rows(part="trend"):
        free = row["units"] - 2
        far = abs(row["rho"]) * math.sqrt(free / (1 - row["rho"] ** 2))
        assert row["p"] == pytest.approx(2 * t.sf(far, free), rel=1e-6)


def test_beside_a_dream_are_its_best_images(models, photos, result):
    for model in models:
        (shard,) = photos.shards()
        (batch,) = stream(photos, shard, model.preprocessing, batch_size=10, on_skip=lambda _: None)
        pictures = result.by_model("pictures")[model.name]
        assert pictures.shape == (len(SITES[model.name]), 3, 3)
        for site, numbers, of in zip(
            SITES[model.name], result.by_model("units")[model.name], pictures, strict=True
        ):
            with torch.no_grad():
                activations = read(model, batch.pixels, [model.site(site)])[site]
            means = activations[:, model.site(site).prefix_tokens :].mean(dim=1)
            for number, texts in zip(numbers.tolist(), of.tolist(), strict=True):
                if not texts[1]:
                    assert means[:, number].max() == means[:, number].min() == 0
                    continue
                best, second = means[:, number].sort(descending=True).values[:2]
                for text, value in zip(texts[1:], (best, second), strict=True):
                    colour = torch.from_numpy(from_text(text)[16, 16] / 255)
                    away = (batch.pixels[:, :, 16, 16] - colour).abs().amax(dim=1)
                    assert means[away.argmin(), number] == pytest.approx(value.item(), rel=1e-4, abs=1e-5)


def test_the_interface(result):
    site = "model part site depth units left_out"
    for measure in MEASURES:
        site += f" {measure} {measure}_q25 {measure}_q75"
    trend = "model part measure units rho p rho_of_medians p_of_medians"
    for row in result.table:
        assert list(row) == (site if row["part"] == "site" else trend).split()
    assert len(result.table) == 3 + 3 + 5 + 3
    assert list(result.arrays) == ["sites", "units", "status", *MEASURES, "pictures"]
    assert result.provenance.settings["seen"]["images"] == 10


def test_figures(result):
    found = result.figures()
    assert list(found) == ["pictures.VisionTransformer", "pictures.ResNet", *MEASURES]
    assert len(found["pictures.ResNet"].axes) == 5 * 9
    labels = [line.get_label() for line in found["spectral_slope"].axes[0].lines]
    assert labels == list(SITES)


def test_without_images_and_without_such_sites(models, photos):
    bare = study("progression", models[0], photos, best=0, sites=("blocks.0.ffn",), **SETTINGS)
    assert bare.arrays["pictures"].shape == (1, 3, 1)
    (row,) = bare.rows(part="trend", measure="jpeg_bits")
    assert math.isnan(row["rho"])
    notes = bare.provenance.settings["seen"]["notes"]
    assert notes == [f"{photos.name} was not read: best is 0"]
    both = study("progression", models, photos, best=0, sites=("blocks.0.ffn",), **SETTINGS)
    assert (
        "ResNet is left out: it has no sites like blocks.0.ffn" in both.provenance.settings["seen"]["notes"]
    )
    assert both.rows(model="ResNet") == []


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"sites": ()}, BadValue, "at least one pattern of sites"),
        ({"best": -1}, BadValue, "best from 0 up"),
        ({"sites": ("nowhere.*", "blocks.9")}, Unsuited, r"no model has sites like nowhere.\* or blocks.9"),
    ],
)
def test_settings_that_make_no_sense(models, photos, settings, error, says):
    with pytest.raises(error, match=says):
        study("progression", models, photos, **settings)
