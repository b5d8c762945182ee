"""The study of similarity against a slow re-implementation, its pairs of models, orders, notes and figure."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.mlp_mixer import MlpMixer

from vitscope.data import images
from vitscope.data.drawn import Drawn
from vitscope.data.stream import stream
from vitscope.errors import BadValue, UnknownSite
from vitscope.models import load
from vitscope.models.checkpoints import seeded
from vitscope.models.vision_model import Preprocessing
from vitscope.studies import STUDIES, open_result, study
from vitscope.tap import read
from vitscope.testing.doubles import tiny_cnn, tiny_vit

COUNT = 21


@pytest.fixture(scope="module")
def cnn():
    """Shown the same images otherwise: another size, cut and scale."""
    model = tiny_cnn()
    model.preprocessing = Preprocessing((32, 32), 40, "bilinear", (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
    return model


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for index in range(COUNT):
        coarse = (draw.random((5, 5, 3)) * 255).astype(np.uint8)
        Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC).save(folder / f"{index:02d}.png")
    return images(f"folder:{folder}")


@pytest.fixture(scope="module")
def result(vit, cnn, photos):
    return study("similarity", [vit, cnn], photos, gram=8, neighbours=2, seed=5)


def features(model, source, names):
    (shard,) = source.shards()
    (batch,) = stream(source, shard, model.preprocessing, batch_size=COUNT, on_skip=lambda _: None)
    found = read(model, batch.pixels, [model.sites.named(name) for name in names])
    return [found[name].double().flatten(1).detach() for name in names]


def hsic(x, y):
    """Song et al. 2012, eq. 5."""
    k, l = ((each @ each.T).fill_diagonal_(0) for each in (x, y))  # noqa: E741
    n = len(k)
    return float(
        ((k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * (k @ l).sum() / (n - 2))
        / (n * (n - 3))
    )


def slowly(x, y):
    """Batches of 8, 8 and 5, each counting by its images; the value and its jackknife error."""
    terms = []
    for start, stop in ((0, 8), (8, 16), (16, 21)):
        a, b = x[start:stop], y[start:stop]
        terms.append([(stop - start) * hsic(*pair) for pair in ((a, b), (a, a), (b, b))])

    def ratio(chosen):
        sums = np.sum(chosen, axis=0)
        return sums[0] / np.sqrt(sums[1] * sums[2])

    without = [ratio(terms[:i] + terms[i + 1 :]) for i in range(3)]
    return ratio(terms), np.sqrt(2 / 3 * np.square(without - np.mean(without)).sum())


def test_every_value_equals_a_slow_re_implementation(vit, cnn, photos, result):
    drawn = Drawn(photos, seed=5)
    names = {name: each.tolist() for name, each in result.by_model("sites").items()}
    assert names[result.models[0]] == ["blocks.0", "blocks.1", "blocks.2"]
    assert names[result.models[1]] == [f"stages.{site}" for site in ("0.0", "1.0", "1.1", "2.0", "3.0")]
    found = {
        name: features(model, drawn, names[name])
        for name, model in zip(result.models, (vit, cnn), strict=True)
    }
    first, second = result.models
    for one, other, end in ((first, first, ""), (second, second, ""), (first, second, f"_with_{second}")):
        value, error = (result.by_model(f"{array}{end}")[one] for array in ("cka", "cka_error"))
        for (i, x), (j, y) in itertools.product(enumerate(found[one]), enumerate(found[other])):
            truth, spread = slowly(x, y)
            assert value[i, j] == pytest.approx(truth, abs=1e-6)
            assert error[i, j] == pytest.approx(spread, abs=1e-6)


def test_rows_are_read_off_the_matrices(result):
    first, second = result.models
    cka, cross = result.by_model("cka"), result.by_model(f"cka_with_{second}")[first]
    (row,) = result.rows(model=second, reading="quarters")
    assert row["cka"] == pytest.approx(cka[second][0, -1])
    assert result.rows(model=first, reading="quarters") == []  # three sites have no quarter
    (row,) = result.rows(model=first, reading="neighbouring")
    assert row["cka"] == pytest.approx((cka[first][0, 1] + cka[first][1, 2]) / 2)
    best = result.rows(model=second, other=first, reading="best_match")
    assert [row["site"] for row in best] == [
        "stages.0.0",
        "stages.1.0",
        "stages.1.1",
        "stages.2.0",
        "stages.3.0",
    ]
    for place, row in enumerate(best):
        assert row["cka"] == pytest.approx(cross[:, place].max())
        assert row["other_site"] == f"blocks.{cross[:, place].argmax()}"
        assert row["depth"] == pytest.approx((place + 1) / 5)
        assert row["cka_error"] > 0
    (matched,) = result.rows(model=second, other=first, reading="matched")
    assert matched["cka"] == pytest.approx(np.mean([row["cka"] for row in best]))
    assert all(row["source"] for row in result.published)


def test_a_model_beside_its_copy_is_itself_whatever_the_batches_of_passes(vit, photos):
    found = study("similarity", [vit, tiny_vit()], photos, gram=8, neighbours=2, batch_size=3)
    again = study("similarity", vit, photos, gram=8, neighbours=2, batch_size=21)
    name, other = found.models
    assert other == f"{name} (2)"
    cross = found.by_model("cka_with_VisionTransformer_2_")[name]
    np.testing.assert_allclose(np.diag(cross), 1.0, atol=1e-9)
    np.testing.assert_allclose(cross, found.by_model("cka")[name], atol=1e-9)
    np.testing.assert_allclose(again.arrays["cka"], found.by_model("cka")[name], atol=1e-5)
    assert found.rows(model=name, reading="matched")[0]["mutual_knn"] == pytest.approx(1.0)


def test_a_mixer_needs_no_attention(photos):
    module = seeded(lambda: MlpMixer(img_size=32, patch_size=8, embed_dim=16, num_blocks=4), seed=0)
    found = study("similarity", load(module, sample=(32, 32), device="cpu"), photos, gram=8, neighbours=2)
    assert found.arrays["cka"].shape == (4, 4)
    np.testing.assert_array_equal(np.diag(found.arrays["cka"]), 1.0)
    assert np.isfinite(found.arrays["cka"]).all()


def test_notes_say_what_happened_to_images(vit, photos):
    def notes(source, **settings):
        return study("similarity", vit, source, **settings).provenance.settings["seen"]["notes"]

    assert notes(photos, gram=19, neighbours=3) == [
        "2 images were left out: too few for a last batch, which needs four",
        "one Gram matrix holds all 19 images: values are exact, without an error",
        "by chance mutual_knn is 0.167",
    ]
    assert (
        notes(photos, gram=7)[-1] == "no mutual_knn: 10 neighbours need Gram matrices of more than 20 images"
    )
    with pytest.raises(BadValue, match="similarity needs at least 4 images, and there are 3"):
        study("similarity", vit, photos.limit(3))


def test_the_order_of_a_source_may_be_kept(vit, photos):
    kept = study("similarity", vit, photos, gram=8, neighbours=2, order="source").arrays["cka"]
    drawn = study("similarity", vit, photos, gram=8, neighbours=2).arrays["cka"]
    whole = [
        study("similarity", vit, photos, gram=21, neighbours=2, order=order).arrays["cka"]
        for order in ("source", "drawn")
    ]
    assert np.abs(kept - drawn).max() > 1e-4
    np.testing.assert_allclose(*whole, atol=1e-6)


def test_settings_that_make_no_sense_are_refused(vit, photos):
    with pytest.raises(BadValue, match="no order 'random': images are taken as 'drawn' or as in"):
        study("similarity", vit, photos, order="random")
    with pytest.raises(UnknownSite, match=r"no site 'layers\.\*' in VisionTransformer"):
        study("similarity", vit, photos, sites=("layers.*",))
    parsed = STUDIES.get("similarity").parse(["sites=blocks.*.ffn,norm", "gram=64", "features=cls"])
    assert parsed == {"sites": ("blocks.*.ffn", "norm"), "gram": 64, "features": "cls"}


def test_it_is_saved_opened_and_drawn(result, tmp_path):
    again = open_result(result.save(tmp_path / "out"))
    assert (tmp_path / "out" / "cka.png").is_file()
    assert {*again.figures()} == {"cka", "spherical_cka", "mutual_knn"}
    panels = [axes.get_title(loc="left") for axes in again.plot().axes if axes.get_title(loc="left")]
    assert panels == ["VisionTransformer", "ResNet", "VisionTransformer\n× ResNet"]


@pytest.mark.real
@pytest.mark.slow
def test_trained_models_are_more_alike_within_than_across(shared):
    """On 24 images only: what differs grossly. Untrained weights would give neither."""
    weights = shared / "weights"
    models = [
        load(f"timm:{name}", weights=str(weights / f"{name}.safetensors"), device="cpu")
        for name in ("vit_tiny_patch16_224", "resnet18")
    ]
    source = images(f"folder:{shared / 'imagenet1k-sample'}")
    with torch.no_grad():
        found = study("similarity", models, Drawn(source, seed=1).limit(24), gram=24)
    (near,) = found.rows(model=models[0].name, reading="neighbouring")
    (far,) = found.rows(model=models[0].name, reading="quarters")
    (across,) = found.rows(model=models[0].name, reading="matched")
    assert near["cka"] > 0.85
    assert far["cka"] < near["cka"]
    assert 0.2 < across["cka"] < near["cka"]
