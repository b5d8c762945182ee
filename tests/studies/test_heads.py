"""Sets of heads against layers: their Gram matrices and CKA by hand, and which sets there are."""

import numpy as np
import pytest

from vitscope.errors import BadValue, Unsuited
from vitscope.meters.grams import Grams
from vitscope.meters.head_grams import HeadGrams, of_sets
from vitscope.meters.hsic import CKA
from vitscope.scan import scan
from vitscope.studies.heads import HEADS, windows
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit

SITE = "blocks.0.attn.heads"
COUNT = 12


@pytest.fixture(scope="module")
def folder(noise):
    return noise(COUNT)


@pytest.fixture(scope="module")
def vit():
    return tiny_vit(num_heads=6)


@pytest.fixture(scope="module")
def result(vit, images):
    return HEADS([vit, tiny_cnn()], images, window=2)


def hsic(one, other):
    """HSIC_1 of Song et al. as it is written."""
    n = len(one)
    one, other = (each - np.diag(np.diag(each)) for each in (one, other))
    first = np.trace(one @ other)
    second = one.sum() * other.sum() / (n - 1) / (n - 2)
    return (first + second - 2 / (n - 2) * (one @ other).sum()) / n / (n - 3)


def cka(x, y):
    x, y = (each.double().flatten(1).numpy() for each in (x, y))
    here, there = x @ x.T, y @ y.T
    return hsic(here, there) / np.sqrt(hsic(here, here) * hsic(there, there))


def test_every_set_is_compared_as_if_its_heads_stood_side_by_side(result, vit, pixels):
    cnn = tiny_cnn()
    context = read(vit, pixels, [vit.sites.named(SITE)])[SITE].unflatten(-1, (6, 4))
    rows = result.rows(part="set")
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    assert layers == ["stages.0.0", "stages.1.0"]
    assert len(rows) == 5 * 2
    for row in rows:
        layer = read(cnn, pixels, [cnn.sites.named(row["layer"])])[row["layer"]]
        heads = list(map(int, row["heads"].split("+")))
        assert row["cka"] == pytest.approx(cka(context[:, :, heads], layer), abs=1e-5)
        assert row["distance"] == pytest.approx(result.arrays["distance"][result.models[0]][heads].mean())


def test_all_heads_together_are_the_whole_context(vit, images):
    found = scan(vit, images, [HeadGrams(SITE, heads=6), CKA(SITE)])
    whole = of_sets(found["head_grams"], [list(range(6))])
    assert np.allclose(whole.values[0], found["cka"].values[0], rtol=1e-4, atol=1e-5)
    assert whole.cka(found["cka"]).value[0, 0] == pytest.approx(1, abs=1e-6)


def test_sets_slide_over_the_heads_in_order_of_distance():
    distance = np.array([30.0, 10.0, 20.0, 50.0, 40.0, 60.0, 70.0, 80.0])
    assert windows(distance, size=3)[0] == [1, 2, 0]
    assert windows(distance)[0] == [1, 2], "a quarter of eight"
    assert windows(distance[:3]) == [[1], [2], [0]]
    assert windows(distance, size=99) == [[1, 2, 0, 4, 3, 5, 6, 7]]


def test_the_trend_is_the_rank_correlation_of_its_sets(result):
    for row in result.rows(part="trend"):
        sets = result.rows(part="set", layer=row["layer"])
        ranks = [np.argsort(np.argsort([one[name] for one in sets])) for name in ("distance", "cka")]
        assert row["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
        assert row["sets"] == 5


def test_states_merge_and_are_files(vit, images):
    meter = HeadGrams(SITE, heads=6, gram=4)
    whole = scan(vit, images, [meter])["head_grams"]
    parts = scan(vit, images, [meter], shard_size=4, batch_size=3)["head_grams"]
    assert all(map(np.array_equal, sorted(map(bytes, whole.ids)), sorted(map(bytes, parts.ids))))
    assert np.allclose(whole.cka().value, parts.cka().value, atol=1e-6)
    sites = meter.sites(vit.sites)
    empty = meter.start(sites)
    assert isinstance(meter.load(sites, empty.arrays()).result(), Grams)


def test_what_is_missing_is_said(vit, images):
    with pytest.raises(BadValue, match="the study 'heads' needs a model with attention"):
        HEADS(tiny_cnn(), images)
    with pytest.raises(Unsuited, match=r"none of .* has no attention and stages\.0\.\*, stages\.1\.0"):
        HEADS(vit, images)
    with pytest.raises(Unsuited, match="has attention in block 9"):
        HEADS([vit, tiny_cnn()], images, block=9)
    with pytest.raises(BadValue, match="has 24 units, which 5 heads cannot share"):
        HeadGrams(SITE, heads=5).sites(vit.sites)
    with pytest.raises(BadValue, match="heads is at least 1 and gram at least 4"):
        HeadGrams(SITE, heads=0)


def test_models_side_by_side_draw_and_save(vit, images, tmp_path):
    result = HEADS([vit, tiny_vit(), tiny_cnn(), tiny_cnn(seed=1)], images)
    assert len(result.rows(part="trend")) == 2 * 2 * 2
    assert set(result.by_model("distance")) == set(result.models[:2])
    result.save(tmp_path / "out")
    assert (tmp_path / "out" / "heads.png").is_file()
