"""The laws of CKA and its estimator, with the numbers of the paper's check; neighbours by hand; outliers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitscope.errors import BadValue
from vitscope.meters.grams import Grams, squares, u_centred


def grams_of(*features, batch=None):
    """The matrices of features "image feature", in float64 so that laws hold to the last digits."""
    count = len(features[0])
    size = batch or count
    values, ids = [], []
    for start in range(0, count, size):
        rows = []
        for each in features:
            part = each[start : start + size].astype(np.float64)
            part = part - part.mean(axis=0)
            rows.append((part @ part.T)[np.triu_indices(len(part))])
        values.append(np.stack(rows))
        ids.append(np.arange(start, start + len(part), dtype=np.uint64).view(np.uint8).reshape(-1, 8))
        ids[-1] = np.concatenate([ids[-1], ids[-1]], axis=1)
    names = tuple(f"s{index}" for index in range(len(features)))
    return Grams(names, tuple(ids), tuple(values))


def cka(x, y, **settings_):
    return grams_of(x, y, **settings_).cka().value[0, 1]


def naively(k, l):  # noqa: E741
    """HSIC_1 summed over the entries one by one (Song et al. 2012, eq. 5)."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    trace = sum(k[a, b] * l[b, a] for a in range(n) for b in range(n))
    cross = sum(k[a, b] * l[b, c] for a in range(n) for b in range(n) for c in range(n))
    return (trace + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)) / (n * (n - 3))


@pytest.fixture
def draw():
    return np.random.default_rng(0)


@pytest.fixture
def pair(draw):
    """Two representations that share a part, one wider than there are images."""
    base = draw.normal(size=(48, 8))
    x = np.maximum(base @ draw.normal(size=(8, 20)), 0)
    return x, base @ draw.normal(size=(8, 60)) + draw.normal(size=(48, 60))


@given(st.integers(4, 9), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_the_product_of_u_centred_matrices_is_hsic_1(count, seed):
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(count, 3)), draw.normal(size=(count, 5)) + 4
    k, l = x @ x.T, y @ y.T  # noqa: E741
    centred = u_centred(k)
    assert np.abs(centred.sum(axis=0)).max() < 1e-10
    found = (centred * u_centred(l)).sum() / (count * (count - 3))
    assert found == pytest.approx(naively(k, l), rel=1e-9, abs=1e-9)


def test_laws_of_invariance(pair, draw):
    x, y = pair
    truth = cka(x, y)
    turn = np.linalg.qr(draw.normal(size=(20, 20)))[0]
    for same in (x @ turn, x[:, draw.permutation(20)], 7.5 * x, x + draw.normal(size=20)):
        assert cka(same, y) == pytest.approx(truth, abs=1e-10)
    order = draw.permutation(48)
    assert cka(x[order], y[order]) == pytest.approx(truth, abs=1e-10)
    for other in (x @ draw.normal(size=(20, 20)), x * np.linspace(0.1, 3, 20)):
        assert abs(cka(other, y) - truth) > 1e-3


def test_one_with_itself_symmetric_and_transposed_when_swapped(pair):
    x, y = pair
    own = grams_of(x, y, batch=16).cka().value
    assert np.diag(own).tolist() == [1.0, 1.0]
    np.testing.assert_array_equal(own, own.T)
    ours, theirs = grams_of(x, y, batch=16), grams_of(y, x, x + y[:, :20], batch=16)
    np.testing.assert_allclose(ours.cka(theirs).value, theirs.cka(ours).value.T, atol=1e-14)
    np.testing.assert_allclose(ours.cka(theirs).error, theirs.cka(ours).error.T, atol=1e-14)


def test_hsic_1_is_a_u_statistic(draw):
    base = draw.normal(size=(200, 4))
    x, y = base @ draw.normal(size=(4, 6)), base @ draw.normal(size=(4, 6)) + draw.normal(size=(200, 6))
    k, l = x @ x.T, y @ y.T  # noqa: E741

    def hsic(chosen):
        inside = np.ix_(chosen, chosen)
        return (u_centred(k[inside]) * u_centred(l[inside])).sum() / (len(chosen) * (len(chosen) - 3))

    subsets = [hsic(draw.choice(200, 32, replace=False)) for _ in range(1500)]
    assert abs(np.mean(subsets) - hsic(np.arange(200))) < 2.5 * np.std(subsets) / np.sqrt(1500)


def test_minibatches_agree_with_all_images_at_once(draw):
    base = draw.normal(size=(2048, 10))
    x = np.tanh(base @ draw.normal(size=(10, 40)))
    y = np.tanh(base @ draw.normal(size=(10, 40)) + 1.5 * draw.normal(size=(2048, 40)))
    truth = cka(x, y)
    assert 0.3 < truth < 0.9
    for batch, within in ((16, 0.02), (64, 0.005), (128, 0.005), (1024, 0.005)):
        assert abs(cka(x, y, batch=batch) - truth) < within, batch


def biased(x, y):
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())


def test_defect_biased_estimators_independent_features_have_none_in_common(draw):
    x, y = draw.normal(size=(2, 256, 768))
    assert biased(x, y) == pytest.approx(0.750, abs=0.01)
    assert abs(cka(x, y)) < 0.02
    x, y = draw.normal(size=(2, 1024, 768))
    parts = [biased(x[start : start + 64], y[start : start + 64]) for start in range(0, 1024, 64)]
    assert np.mean(parts) == pytest.approx(0.923, abs=0.01)
    assert abs(cka(x, y, batch=64)) < 0.02


def test_estimates_below_zero_are_not_clipped(draw):
    found = [cka(*draw.normal(size=(2, 24, 30))) for _ in range(60)]
    assert 0.3 < np.mean(np.array(found) < 0) < 0.7


def test_the_error_is_that_of_fresh_samples(draw):
    """The spread of the value over 60 fresh data sets, against the mean of what each says of itself."""
    mixing = draw.normal(size=(2, 6, 12))

    def once():
        base = draw.normal(size=(256, 6))
        return grams_of(base @ mixing[0], base @ mixing[1] + 2 * draw.normal(size=(256, 12)), batch=32).cka()

    many = [once() for _ in range(60)]
    spread = np.std([each.value[0, 1] for each in many])
    said = np.mean([each.error[0, 1] for each in many])
    assert 0.6 < said / spread < 1.6
    assert all(each.error[0, 0] == 0 for each in many)


def test_a_single_batch_has_no_error(pair):
    assert np.isnan(grams_of(*pair).cka().error).all()


def test_a_few_extreme_images_decide_cka_but_not_the_spherical_one(draw):
    x, y = draw.normal(size=(2, 64, 20))
    x[0] *= 100
    y[0] = 100 * draw.normal(size=20)
    x[1], y[1] = x[0], y[0]
    found = grams_of(x, y)
    assert found.cka().value[0, 1] > 0.9
    assert abs(found.cka(spherical=True).value[0, 1]) < 0.2
    plain = grams_of(x[2:], y[2:])
    assert abs(plain.cka().value[0, 1]) < 0.1


def test_the_spherical_one_equals_a_slow_re_implementation(pair):
    """The spatial median by plain gradient descent on the sum of distances, then cosines around it."""
    signs = []
    for values in pair:
        centre = values.mean(axis=0)
        for _ in range(4000):
            away = values - centre
            slope = (away / np.linalg.norm(away, axis=1, keepdims=True)).mean(axis=0)
            centre = centre + slope * np.linalg.norm(away, axis=1).mean() * 0.5
        assert np.linalg.norm(slope) < 1e-9
        unit = (values - centre) / np.linalg.norm(values - centre, axis=1, keepdims=True)
        signs.append(u_centred(unit @ unit.T))
    k, l = signs  # noqa: E741
    truth = (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())
    assert grams_of(*pair).cka(spherical=True).value[0, 1] == pytest.approx(truth, abs=1e-6)


def test_neighbours_equal_a_slow_count(pair):
    x, y = pair
    total = 0
    for start in (0, 24):
        sets = []
        for values in (x[start : start + 24], y[start : start + 24]):
            away = ((values[:, None] - values[None]) ** 2).sum(-1)
            sets.append(
                [{*sorted({*range(24)} - {row}, key=lambda j, r=row: away[r, j])[:5]} for row in range(24)]
            )
        total += sum(len(one & other) for one, other in zip(*sets, strict=True))
    found = grams_of(x, y, batch=24).neighbours(k=5)
    assert found.value[0, 1] == pytest.approx(total / (48 * 5))
    assert np.diag(found.value).tolist() == [1.0, 1.0]
    assert 0 < found.error[0, 1] < 0.2


def test_neighbours_of_unrelated_features_are_shared_by_chance(draw):
    found = grams_of(*draw.normal(size=(2, 512, 20)), batch=128).neighbours(k=10)
    assert found.value[0, 1] == pytest.approx(10 / 127, abs=4 * found.error[0, 1])


def test_neighbours_need_batches_of_more_than_two_k(pair):
    found = grams_of(*(each[:36] for each in pair), batch=24)
    assert (
        found.neighbours(k=8).value[0, 1]
        == grams_of(*(each[:24] for each in pair)).neighbours(k=8).value[0, 1]
    )
    assert np.isnan(found.neighbours(k=12).value).all()
    with pytest.raises(BadValue, match="k counts neighbours and is at least 1, not 0"):
        found.neighbours(k=0)


def test_images_that_come_again_are_counted(pair):
    found = grams_of(*pair, batch=16)
    assert found.repeated == 0
    found.ids[1][3] = found.ids[1][4]
    assert found.repeated == 1


def test_squares_are_whole_matrices(draw):
    whole = draw.normal(size=(6, 6))
    whole += whole.T
    (found,) = squares(whole[np.triu_indices(6)][None])
    np.testing.assert_array_equal(found, whole)
