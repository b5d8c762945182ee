"""The sample of an atlas: the images of a unit's middle, random ones and like units, by brute force."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tests.atlas.conftest import CONSTANT, DEAD, SETTINGS, SITE, model, opened, tree

from vitscope.atlas.building import build
from vitscope.atlas.leaf import SAMPLED
from vitscope.atlas.read import Atlas
from vitscope.atlas.sample import SEED, alike_rows, medians, sample_of
from vitscope.atlas.store import Store
from vitscope.atlas.verify import verify
from vitscope.data.stream import stream
from vitscope.draws import key
from vitscope.errors import AtlasError
from vitscope.meters.moments import EDGES, Moments
from vitscope.scan import scan
from vitscope.tap import read


@cache
def activations(folder: Path) -> dict[str, np.ndarray]:
    """Identity of each picture -> its activations "place unit" on the grid."""
    source, found = opened(folder), {}
    for shard in source.shards():
        for batch in stream(source, shard, model().preprocessing, batch_size=1, on_skip=pytest.fail):
            found[batch.ids[0]] = read(model(), batch.pixels, [model().sites.named(SITE)])[SITE][
                0, 1:
            ].numpy()
    return found


def test_a_sample_is_the_smallest_hashes_whatever_the_order(monkeypatch):
    monkeypatch.setattr("vitscope.atlas.sample.SAMPLED_IMAGES", 20)
    images = [f"{number:032x}" for number in range(200)]
    expected = sorted(images, key=lambda image: key(SEED, image))[:20]
    assert sample_of(images) == sample_of(reversed(images)) == sample_of(images * 2) == expected
    first, second = sample_of(images[:90]), sample_of(images[90:])
    assert sample_of(first + second) == expected, "samples of shards merge"


def test_medians_lie_where_half_of_the_images_do():
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(0.4, 0.2, (501, 1)), rng.gamma(2.0, 2.0, (501, 1))], axis=1)
    counts = np.stack(
        [
            np.bincount(np.searchsorted(EDGES, column, "right"), minlength=len(EDGES) + 1)
            for column in values.T
        ]
    )
    width = np.diff(EDGES)[np.searchsorted(EDGES, np.median(values, axis=0)) - 1]
    assert (np.abs(medians(EDGES, counts) - np.median(values, axis=0)) < width / 2).all()


def test_middle_and_random_images_by_brute_force(finished):
    seen = activations(finished / "photos")
    atlas = Atlas.open(finished / "tiny.atlas")
    found = scan(model(), opened(finished / "photos"), [Moments(SITE)])["moments"][SITE]
    middle = medians(found.edges, found.histogram)
    lots = sorted(seen, key=lambda image: key(SEED, image))[:3]
    assert [image for image, _, _ in atlas.sample][:3] == lots
    for unit in set(range(96)) - {DEAD, CONSTANT}:
        sampled = atlas[f"{SITE}:{unit}"].sampled
        assert [one.image for one in sampled.random] == lots
        peaks = {image: values[:, unit].max() for image, values in seen.items()}
        nearest = sorted(peaks, key=lambda image: abs(peaks[image] - middle[unit]))[:3]
        assert {one.image for one in sampled.middle} == set(nearest)
        for one in (*sampled.middle, *sampled.random):
            values = seen[one.image][:, unit]
            assert one.value == pytest.approx(values.max(), rel=1e-5)
            assert one.place == "{},{}".format(*divmod(int(values.argmax()), 4))
            shown = one.map_low + one.map / 255 * (one.map_high - one.map_low)
            np.testing.assert_allclose(shown.ravel(), values, atol=np.ptp(values) / 500 + 1e-6)
    assert atlas[f"{SITE}:{DEAD}"].sampled.middle == ()


def test_units_are_alike_by_activation_and_weight(finished):
    means = np.stack([values.mean(axis=0) for values in activations(finished / "photos").values()])
    weights = model().module.blocks[1].mlp.fc1.weight.detach().numpy()
    atlas = Atlas.open(finished / "tiny.atlas")
    for unit in (0, 40, 95):
        found = atlas[f"{SITE}:{unit}"].sampled.alike
        others = [other for other in range(96) if other not in (unit, DEAD, CONSTANT)]
        by = {
            "activation": {other: np.corrcoef(means[:, unit], means[:, other])[0, 1] for other in others},
            "weight": {
                other: weights[unit]
                @ weights[other]
                / np.linalg.norm(weights[unit])
                / np.linalg.norm(weights[other])
                for other in others
            },
        }
        for measure, likeness in by.items():
            best = sorted(others, key=lambda other: -likeness[other])[:8]
            assert [one.unit for one in found[measure]] == best
            assert [one.value for one in found[measure]] == pytest.approx(
                [likeness[other] for other in best], abs=1e-5
            )
    assert atlas[f"{SITE}:{DEAD}"].sampled.alike == {}


def test_nothing_is_like_what_points_nowhere():
    vectors = np.array([[1.0, 0.0], [0.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    rows = [(row.unit, row.rank, row.other, row.value) for row in alike_rows("weight", vectors, range(4))]
    assert rows == [(0, 0, 2, 0.6), (2, 0, 0, 0.6)]


def test_an_older_atlas_gets_its_sample_by_the_same_build(again):
    root = again / "tiny.atlas"
    whole = tree(root)
    for path in [
        *root.glob("sites/*/*.samples.*"),
        *root.glob("sites/*/*.alike.*"),
        root / "sample.json",
        root / "parts/sample.safetensors",
    ]:
        path.unlink()
    old = Atlas.open(root)
    assert (old.complete, old[f"{SITE}:0"].sampled, old.sample) == (True, None, ())
    assert old[f"{SITE}:0"].describe()["sampled"] is None
    assert verify(root).ok
    build(model(), opened(again / "photos"), out=root, **SETTINGS)
    assert tree(root) == whole


def test_fault_064_a_damaged_sample_is_named_and_made_again(again):
    root = again / "tiny.atlas"
    whole = tree(root)
    store = Store.open(root)
    path = store.leaf_file(SITE, 0, "samples.parquet")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert verify(root).damaged == (
        f"{SITE} units 0 to 95 (leaf 0000): 0000.samples.parquet has other bytes than were written",
    )
    with pytest.raises(AtlasError, match=r"samples\.parquet has other bytes"):
        Atlas.open(root)[f"{SITE}:0"]
    build(model(), opened(again / "photos"), out=root, **SETTINGS)
    assert tree(root) == whole
    assert store.fault(SITE, 0, read=True, of=SAMPLED) is None
