"""Dreams at the same relative depth: which sites and units, the dreams themselves, and their table again."""

import numpy as np
import pytest

from vitscope.dream import dream
from vitscope.errors import BadValue, Unsuited
from vitscope.studies import study
from vitscope.studies.appearance import from_text, roughness
from vitscope.studies.dreamt import short

SETTINGS = {"units": 2, "steps": 2, "copies": 1, "seed": 1}
SITES = {
    "VisionTransformer": ["blocks.0.ffn", "blocks.1.ffn", "blocks.2.ffn"],
    "ResNet": ["stages.1.0", "stages.1.1", "stages.2.0"],
}
LIE = {"VisionTransformer": [0.0, 0.5, 1.0], "ResNet": [0.25, 0.5, 0.75]}


@pytest.fixture(scope="module")
def folder(noise):
    return noise(1)


@pytest.fixture(scope="module")
def result(vit, cnn, images):
    return study("matched_dreams", [vit, cnn], images, **SETTINGS)


def test_every_model_is_read_at_the_site_nearest_to_each_depth(result):
    for name, sites in SITES.items():
        assert result.by_model("sites")[name].tolist() == sites
        rows = result.rows(model=name)
        assert [(row["depth"], row["site"]) for row in rows] == list(zip((0.2, 0.5, 0.8), sites, strict=True))
        assert [row["lies"] for row in rows] == LIE[name]


def test_dreams_and_their_numbers_are_those_of_the_units(vit, cnn, result):
    recipe = short("olah_2017:short", steps=2, copies=1)
    for model in (vit, cnn):
        arrays = {name: result.by_model(name)[model.name] for name in ("units", "dreams", "high_frequency")}
        for place, row in enumerate(result.rows(model=model.name)):
            units = arrays["units"][place].tolist()
            made = dream(model, [f"{row['site']}:{unit}" for unit in units], recipe=recipe, seed=1)
            good = [one.trust["status"] == "ok" for one in made]
            assert (row["units"], row["left_out"]) == (sum(good), 2 - sum(good))
            assert result.by_model("status")[model.name][place].tolist() == [
                one.trust["status"] for one in made
            ]
            pixels = [(one.pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for one in made]
            for text, picture in zip(arrays["dreams"][place].tolist(), pixels, strict=True):
                assert abs(from_text(text).astype(int) - picture.astype(int)).mean() < 8  # WebP is lossy
            shares = [roughness(picture) for picture, fine in zip(pixels, good, strict=True) if fine]
            found = arrays["high_frequency"][place]
            assert found[np.isfinite(found)] == pytest.approx(shares, rel=0.03, abs=0.05)
            if shares:
                assert row["high_frequency"] == pytest.approx(np.median(found[np.isfinite(found)]))


def test_the_figure_has_a_row_for_every_depth_and_a_strip_for_every_model(result):
    (figure,) = result.figures().values()
    titles = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert titles == [
        "\n".join([f"{depth} deep", *(sites[place] for sites in SITES.values())])
        for place, depth in enumerate(("20%", "50%", "80%"))
    ]
    assert len(figure.axes) == 3 * (2 + 1 + 2)
    assert [axes.get_title() for axes in figure.axes[:5]] == ["VisionTransformer", "", "", "ResNet", ""]
    blank = [axes.images[0].get_array().min() for axes in figure.axes[2::5]]
    assert blank == [255, 255, 255]


def test_a_model_without_such_sites_is_left_out(vit, cnn, images):
    found = study("matched_dreams", [vit, cnn], images, sites=("blocks.*.ffn",), depths=(1.0,), **SETTINGS)
    assert (
        "ResNet is left out: it has no sites like blocks.*.ffn" in found.provenance.settings["seen"]["notes"]
    )
    assert [row["site"] for row in found.table] == ["blocks.2.ffn"]
    with pytest.raises(Unsuited, match=r"no model has sites like blocks\.\*\.ffn"):
        study("matched_dreams", cnn, images, sites=("blocks.*.ffn",), **SETTINGS)


@pytest.mark.parametrize("depths", [(), (0.5, 1.2)])
def test_depths_lie_between_0_and_1(vit, images, depths):
    with pytest.raises(BadValue, match="depths lie between 0 and 1"):
        study("matched_dreams", vit, images, depths=depths, **SETTINGS)
