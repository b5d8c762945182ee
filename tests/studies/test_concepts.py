"""Classes of best images: entropy and spread in meaning by loops over images, and the matched comparison."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitscope.data import images
from vitscope.data.stream import stream
from vitscope.errors import BadValue, Unsuited
from vitscope.studies import study
from vitscope.studies.concepts_judge import entropies, spreads
from vitscope.studies.concepts_units import sharpness
from vitscope.studies.matching import matched_difference
from vitscope.tap import read
from vitscope.testing.doubles import tiny_cnn, tiny_vit

K, COUNT = 4, 24
APART = {"ant hen": 4, "ant bee": 2, "bee hen": 4, "ant pin": 5, "bee pin": 5, "hen pin": 5}
TABLE = (
    "child,parent\nant,insect\nbee,insect\ninsect,animal\nhen,bird\nbird,animal\nanimal,thing\n"
    "pin,tool\ntool,thing\n"
)
SITES = {
    "VisionTransformer": [f"blocks.{block}.ffn" for block in range(3)],
    "ResNet": ["stages.0.0", "stages.1.0", "stages.1.1", "stages.2.0", "stages.3.0"],
}


@pytest.fixture(scope="module")
def models():
    return [tiny_vit(), tiny_cnn()]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Noise in four folders of six, whose names are classes."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for name in ("ant", "bee", "hen", "pin"):
        (folder / name).mkdir()
        for index in range(COUNT // 4):
            coarse = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((32, 32)).save(folder / name / f"{index}.png")
    (folder / "kinds.txt").write_text(TABLE)
    return images(f"folder:{folder}"), str(folder / "kinds.txt")


@pytest.fixture(scope="module")
def result(models, photos):
    source, table = photos
    return study("concepts", models, source, k=K, wordnet=table)


def apart(one, other):
    return 0 if one == other else APART[" ".join(sorted((one, other)))]


@pytest.fixture(scope="module")
def slowly(models, photos):
    """Of every unit, from all activations at once: classes of its best images, and how sharp they are."""
    source, _ = photos
    found = {}
    for model in models:
        (shard,) = source.shards()
        (batch,) = stream(source, shard, model.preprocessing, batch_size=COUNT, on_skip=lambda _: None)
        for name in SITES[model.name]:
            site = model.site(name)
            with torch.no_grad():
                values = read(model, batch.pixels, [site])[name][:, site.prefix_tokens :].double()
            means = values.mean(dim=1)
            units = []
            for unit in range(site.units):
                if values[..., unit].max() == values[..., unit].min():
                    units.append((None, math.nan))
                    continue
                order = sorted(
                    (-np.float32(mean), batch.ids[one], one) for one, mean in enumerate(means[:, unit])
                )
                best = [one for *_, one in order[:K]]
                top = sum(means[one, unit].item() for one in best) / K
                every = values[..., unit].flatten()
                sharp = (top - every.mean().item()) / every.std(unbiased=False).item()
                units.append(([source.classes[int(batch.labels[one])] for one in best], sharp))
            found[model.name, name] = units
    return found


def entropy(classes):
    shares = [classes.count(name) / len(classes) for name in {*classes}]
    return -sum(share * math.log2(share) for share in shares)


def spread(classes):
    pairs = list(combinations(classes, 2))
    return sum(apart(*pair) for pair in pairs) / len(pairs)


def test_every_unit_equals_a_loop_over_its_best_images(result, slowly):
    for name, sites in SITES.items():
        assert result.by_model("sites")[name].tolist() == sites
        found = {what: result.by_model(what)[name] for what in ("entropy", "distance", "sharpness")}
        for place, site in enumerate(sites):
            units = slowly[name, site]
            assert np.isnan(found["entropy"][place, len(units) :]).all()
            for number, (classes, sharp) in enumerate(units):
                here = {what: values[place, number] for what, values in found.items()}
                if classes is None:
                    assert all(map(math.isnan, here.values()))
                    continue
                assert here["entropy"] == pytest.approx(entropy(classes), abs=1e-9)
                assert here["distance"] == pytest.approx(spread(classes))
                assert here["sharpness"] == pytest.approx(sharp, rel=1e-3, abs=1e-3)


def test_rows_are_means_over_units(result, slowly):
    for name, sites in SITES.items():
        for place, site in enumerate(sites):
            (row,) = result.rows(model=name, part="site", site=site)
            judged = [classes for classes, _ in slowly[name, site] if classes]
            assert row["depth"] == place / (len(sites) - 1)
            assert (row["units"], row["left_out"]) == (len(judged), len(slowly[name, site]) - len(judged))
            assert row["entropy"] == pytest.approx(np.mean([entropy(classes) for classes in judged]))
            assert row["distance"] == pytest.approx(np.mean([spread(classes) for classes in judged]))
            assert row["distance_low"] <= row["distance"] <= row["distance_high"]
            sharp = [sharp for _, sharp in slowly[name, site] if math.isfinite(sharp)]
            assert row["sharpness"] == pytest.approx(np.median(sharp), rel=1e-3)


def test_the_control_is_random_sets_of_as_many_images(result, slowly):
    """Means of all sets, exactly: two of 24 images are of one class with a chance of 5 in 23."""
    names = ("ant", "bee", "hen", "pin")
    between = sum(apart(*pair) for pair in combinations(names, 2)) / 6
    for name, sites in SITES.items():
        random = {what: result.by_model(f"random_{what}")[name] for what in ("entropy", "distance")}
        assert random["distance"].shape == (1000,)
        assert random["distance"].mean() == pytest.approx(between * 18 / 23, abs=0.1)
        (row,) = result.rows(model=name, part="site", site=sites[0])
        judged = [classes for classes, _ in slowly[name, sites[0]] if classes]
        for what, of in (("entropy", entropy), ("distance", spread)):
            assert row[f"{what}_random"] == pytest.approx(random[what].mean())
            rare = np.quantile(random[what], 0.05)
            below = 100 * np.mean([of(classes) < rare - 1e-12 for classes in judged])
            assert row[f"{what}_below"] == pytest.approx(below)
    first, second = (result.by_model("random_entropy")[name] for name in SITES)
    assert np.array_equal(first, second), "models are compared with the same sets"


def test_models_are_matched_by_depth_and_sharpness(result):
    first, second = SITES
    nearest = {
        "stages.0.0": "blocks.0.ffn",
        "stages.1.0": "blocks.0.ffn",
        "stages.1.1": "blocks.1.ffn",
        "stages.2.0": "blocks.1.ffn",
        "stages.3.0": "blocks.2.ffn",
    }
    differences = []
    for place, site in enumerate(SITES[second]):
        (row,) = result.rows(model=second, part="matched", site=site)
        assert (row["against"], row["against_site"]) == (first, nearest[site])
        there = SITES[first].index(nearest[site])
        values = {
            name: (result.by_model("distance")[name][at], result.by_model("sharpness")[name][at])
            for name, at in ((first, there), (second, place))
        }
        effect, units = matched_difference(*values[second], *values[first])
        assert row["units"] == units
        assert row["distance_difference"] == pytest.approx(effect.value, nan_ok=True)
        differences.append(effect.value)
    (whole,) = result.rows(model=second, part="matched_all")
    assert whole["distance_difference"] == pytest.approx(np.nanmean(differences))
    assert result.rows(model=first, part="matched") == []


def test_the_interface(result):
    site = "model part site depth units left_out sharpness sharpness_q25 sharpness_q75"
    for name in ("entropy", "distance"):
        site += (
            f" {name} {name}_low {name}_high {name}_random {name}_below {name}_below_low {name}_below_high"
        )
    rows = {part: result.rows(part=part) for part in ("site", "matched", "matched_all")}
    assert [len(of) for of in rows.values()] == [8, 5, 1]
    assert all(list(row) == site.split() for row in rows["site"])
    differences = {
        f"{name}_difference{end}" for name in ("entropy", "distance") for end in ("", "_low", "_high")
    }
    matched = {"model", "part", "against", "site", "depth", "against_site", "units"}
    assert all({*row} == matched | differences for row in rows["matched"])
    assert {*rows["matched_all"][0]} == {"model", "part", "against", "units"} | differences
    assert list(result.arrays) == [
        *("sites", "entropy", "distance", "sharpness", "random_entropy", "random_distance")
    ]
    (note,) = result.provenance.settings["seen"]["notes"]
    assert note.startswith("relations are those of kinds.txt (sha256 ")


def test_figures(result):
    found = result.figures()
    assert list(found) == ["distance", "entropy"]
    assert [line.get_label() for line in found["distance"].axes[0].lines][:2] == list(SITES)


def test_wu_palmer_and_classes_without_relations(models, photos, tmp_path):
    source, _ = photos
    table = tmp_path / "few.csv"
    table.write_text("child,parent\nant,insect\nbee,insect\n")
    result = study("concepts", models[0], source, k=3, wordnet=str(table), relation="wu_palmer")
    spread = result.by_model("random_distance")[models[0].name]
    assert 0 <= np.nanmin(spread) < np.nanmax(spread) <= 0.5  # 1 - 2 * 1 / (2 + 2): two insects
    notes = result.provenance.settings["seen"]["notes"]
    assert "it does not know 2 of 4 classes ('hen', 'pin'): left out" in notes


def test_without_relations_there_is_entropy_alone_and_a_note(models, photos):
    source, _ = photos
    result = study("concepts", models[0], source, k=3)
    assert not any("distance" in column for row in result.table for column in row)
    assert list(result.figures()) == ["entropy"]
    (note,) = result.provenance.settings["seen"]["notes"]
    assert note.startswith("no distance between classes is reported: no WordNet ids are in the images' names")


def test_one_image_a_class_tells_nothing_of_entropy(models, tmp_path):
    for index in range(5):
        (tmp_path / f"n0000000{index}").mkdir()
        noise = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"n0000000{index}" / "a.png")
    (tmp_path / "kinds.csv").write_text("child,parent\nn00000000,x\nn00000001,x\nn00000002,y\n")
    result = study(
        "concepts", models[0], images(f"folder:{tmp_path}"), k=4, wordnet=str(tmp_path / "kinds.csv")
    )
    notes = result.provenance.settings["seen"]["notes"]
    assert any("the entropy of 4 images is 2 bits whatever they are" in note for note in notes)
    assert {row["entropy"] for row in result.rows(part="site")} == {2.0}


labels = st.lists(st.integers(0, 4), min_size=2, max_size=9)


@given(labels)
def test_entropy_and_spread_of_any_set(drawn):
    far = np.abs(np.arange(5.0)[:, None] - np.arange(5.0))
    found = entropies(np.array([drawn, [-1, *drawn[1:]]]))
    assert found[0] == pytest.approx(entropy(drawn))
    assert math.isnan(found[1])
    pairs = [abs(one - other) for one, other in combinations(drawn, 2)]
    assert spreads(np.array([drawn]), far)[0] == pytest.approx(sum(pairs) / len(pairs))
    assert entropies(np.array([drawn[::-1]]))[0] == pytest.approx(found[0])


def test_pairs_with_an_unknown_class_do_not_count():
    far = np.array([[0.0, 3.0, math.nan], [3.0, 0.0, math.nan], [math.nan] * 3])
    assert spreads(np.array([[0, 1, 2], [2, 2, 2]]), far)[0] == 3
    assert math.isnan(spreads(np.array([[2, 2, 0]]), far)[0])


def test_sharpness_by_hand():
    best, whole = np.array([[5.0, 3.0], [1.0, 1.0], [9.0, 9.0]], np.float32), np.array([True, True, False])
    found = sharpness(best, np.array([1.0, 1.0, 1.0]), np.array([4.0, 0.0, 4.0]), whole=whole)
    assert found[0] == 1.5
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"k": 1}, BadValue, "k from 2 up, not 1"),
        ({"relation": "pth"}, BadValue, "no relation 'pth'. Nearest: 'path'"),
        ({"rank": "median"}, BadValue, "no rank 'median'"),
        ({"k": 25}, Unsuited, "24 labelled images that differ: fewer than k = 25"),
        ({"sites": ("nowhere",)}, Unsuited, "no model has sites like nowhere"),
    ],
)
def test_settings_that_make_no_sense(models, photos, settings, error, says):
    with pytest.raises(error, match=says):
        study("concepts", models[0], photos[0], **settings)


def test_images_without_labels_are_refused(models, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(BadValue, match=r"the study 'concepts' needs labels, and folder:.* has none"):
        study("concepts", models[0], images(f"folder:{tmp_path}"))
