"""Moments against numpy in float64, their merge laws, their histogram, and faults 99 to 102, 104 to 106."""

import itertools
import math

import numpy as np
import pytest
import torch

from vitscope.errors import BadValue
from vitscope.meters.moments import BINS, EDGES, Moments, _bins

SITE = "a.ffn"


def found(state):
    return state.result()[SITE]


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("shift", [0.0, 100.0, -3e4])
def test_moments_equal_numpy_in_float64(feed, prefix, shift):
    values = torch.randn(20, 16 + prefix, 8) * torch.logspace(-3, 3, 8) + shift
    values[torch.rand_like(values) < 0.1] = 0.0
    truth = values[:, prefix:].double().flatten(0, 1).numpy()
    moments = found(feed(Moments(), values, prefix=prefix))
    assert (np.abs(moments.mean - truth.mean(0)) <= 1e-6 * np.abs(truth).mean(0)).all()
    np.testing.assert_allclose(moments.variance, truth.var(0), rtol=1e-5)
    np.testing.assert_array_equal(moments.minimum, truth.min(0))
    np.testing.assert_array_equal(moments.maximum, truth.max(0))
    np.testing.assert_allclose(moments.zeros, (truth == 0).mean(0), rtol=1e-12)
    assert (moments.count == 20 * 16).all()
    assert (moments.status == "ok").all()


def test_a_spread_far_below_the_mean_is_not_cancelled(feed):
    values = (1e4 + torch.randn(50, 64, 4)).float()
    truth = values.double().flatten(0, 1).var(0, unbiased=False)
    np.testing.assert_allclose(found(feed(Moments(), values)).variance, truth, rtol=1e-9)


def test_more_places_than_one_stretch(feed):
    values = torch.randn(3, 700, 4)
    truth = values.double().flatten(0, 1).numpy()
    moments = found(feed(Moments(), values))
    np.testing.assert_allclose(moments.variance, truth.var(0), rtol=1e-5)
    np.testing.assert_array_equal(moments.maximum, truth.max(0))


def test_maps_that_lie_unit_by_unit_in_memory_read_the_same(feed):
    values = torch.randn(5, 4, 300).transpose(1, 2)
    one, other = feed(Moments(), values), feed(Moments(), values.contiguous())
    np.testing.assert_allclose(found(one).mean, found(other).mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found(one).histogram, found(other).histogram)


def test_the_prefix_is_left_out_unless_asked_for(feed):
    values = torch.rand(3, 5, 2)
    values[:, 0] = 99.0
    assert found(feed(Moments(), values, prefix=1)).maximum.max() < 1
    assert found(feed(Moments(prefix_included=True), values, prefix=1)).maximum.min() == 99


def test_fault_099_nan_is_counted_left_out_and_sets_the_status(feed):
    values = torch.rand(6, 4, 3)
    values[2, 1, 0] = math.nan
    values[..., 2] = math.nan
    moments = found(feed(Moments(), values))
    assert moments.status.tolist() == ["nan", "ok", "nan"]
    assert moments.nan.tolist() == [1, 0, 24]
    assert moments.count.tolist() == [23, 24, 0]
    assert moments.mean[0] == pytest.approx(np.nanmean(values[..., 0].double().numpy()), rel=1e-6)
    assert moments.of(2).mean is None
    assert moments.of(2).maximum is None
    assert moments.of(2).histogram == (0,) * (BINS + 2)


def test_fault_100_infinities_are_counted_and_left_out(feed):
    values = torch.rand(6, 4, 2)
    values[2, 1, 0], values[3, 0, 0] = math.inf, -math.inf
    moments = found(feed(Moments(), values))
    assert moments.infinite.tolist() == [2, 0]
    assert moments.count.tolist() == [22, 24]
    kept = values[..., 0][values[..., 0].isfinite()].double()
    assert moments.mean[0] == pytest.approx(float(kept.mean()), rel=1e-6)
    assert moments.maximum[0] == float(kept.max())
    assert moments.histogram[0].sum() == 6


def test_values_whose_squares_overflow_are_still_finite(feed):
    values = torch.full((2, 4, 1), 1e30)
    values[0, 0] = -1e30
    moments = found(feed(Moments(), values))
    assert moments.infinite.tolist() == [0]
    assert moments.mean[0] == pytest.approx(0.75e30, rel=1e-6)
    assert moments.variance[0] == pytest.approx(values.double().var(unbiased=False).item(), rel=1e-6)


def test_fault_101_and_102_dead_and_constant_units(feed):
    values = torch.rand(6, 4, 3)
    values[..., 0], values[..., 1] = 0.0, 0.1
    moments = found(feed(Moments(), values))
    assert moments.status.tolist() == ["dead", "constant", "ok"]
    assert moments.variance[0] == 0
    assert moments.variance[1] == pytest.approx(0, abs=1e-20)
    assert moments.zeros.tolist() == [1, 0, 0]


def test_fault_104_float16_sums_do_not_overflow(feed):
    values = torch.full((4, 256, 1), 1000.0, dtype=torch.float16)
    values[0, 0] = 2000.0
    moments = found(feed(Moments(), values))
    assert moments.mean[0] == pytest.approx(values.double().mean().item(), rel=1e-12)
    assert moments.status.tolist() == ["ok"]


def test_fault_104_ten_million_tenths(feed):
    values = torch.full((1, 1000, 100), 0.1)
    state = feed(Moments(), values)
    for _ in range(10):  # doubled ten times: 1,024,000 a unit and 100 units
        state = state.merge(state)
    moments = found(state)
    assert moments.count[0] == 1_024_000
    assert moments.mean[0] * moments.count[0] == pytest.approx(1_024_000 * float(np.float32(0.1)), rel=1e-12)
    values = values.expand(100, 1000, 100)  # 1e7 values
    moments = found(feed(Moments(), values, batch=50))
    np.testing.assert_allclose(moments.mean, float(np.float32(0.1)), rtol=1e-12)


def test_fault_105_histograms_of_constants_and_nan(feed):
    values = torch.zeros(5, 4, 4)
    values[..., 1], values[..., 2], values[..., 3] = math.nan, 1e9, -1e9
    histogram = found(feed(Moments(), values)).histogram
    assert histogram.sum(1).tolist() == [5, 0, 5, 5]
    assert histogram[0, 1 + BINS // 2] == 5, "zero lies in the bin that begins at zero"
    assert histogram[2, -1] == 5
    assert histogram[3, 0] == 5


def test_the_histogram_counts_each_images_maximum_between_fixed_edges(feed):
    values = torch.randn(200, 4, 3) * torch.tensor([0.1, 3.0, 900.0])
    histogram = found(feed(Moments(), values)).histogram
    most = values.amax(1).double().numpy()
    for unit in range(3):
        expected, _ = np.histogram(most[:, unit], [-np.inf, *EDGES, np.inf])
        np.testing.assert_array_equal(histogram[unit], expected)


def test_bins_are_those_of_a_binary_search():
    near = np.concatenate([np.nextafter(EDGES, -np.inf), EDGES, np.nextafter(EDGES, np.inf)])
    values = np.concatenate([near, near.astype(np.float32), [-np.inf, -1e30, 1e30, 0.0, -0.0]])
    np.testing.assert_array_equal(_bins(values), np.searchsorted(EDGES, values, side="right"))


def test_edges_are_symmetric_and_rise():
    assert len(EDGES) == BINS + 1
    assert (np.diff(EDGES) > 0).all()
    np.testing.assert_array_equal(EDGES, -EDGES[::-1])


def test_fault_106_batches_of_any_size_give_the_same_bytes(feed):
    values = torch.randn(32, 9, 7)
    values[5, 2, 3] = math.nan
    whole = feed(Moments(), values, batch=32).arrays()
    for batch in (1, 3, 8):
        for name, array in feed(Moments(), values, batch=batch).arrays().items():
            np.testing.assert_array_equal(array, whole[name], err_msg=name)


def test_merging_is_commutative_and_associative_and_equals_one_pass(feed):
    values = torch.randn(30, 9, 7) + 3
    values[4, :, 2] = math.inf
    meter = Moments()
    whole = feed(meter, values).arrays()
    parts = [feed(meter, values[:1]), feed(meter, values[1:12]), feed(meter, values[12:])]
    for one, two, three in itertools.permutations(parts):
        for merged in (one.merge(two).merge(three), one.merge(two.merge(three))):
            for name, array in merged.arrays().items():
                np.testing.assert_allclose(array, whole[name], rtol=1e-12, err_msg=name)
    forth, back = parts[0].merge(parts[1]).arrays(), parts[1].merge(parts[0]).arrays()
    for name, array in forth.items():
        np.testing.assert_array_equal(array, back[name])


def test_arrays_and_load_are_inverse(feed):
    meter = Moments()
    state = feed(meter, torch.randn(5, 4, 3))
    again = meter.load(list(state.sites.values()), state.arrays()).arrays()
    assert again.keys() == state.arrays().keys()
    for name, array in state.arrays().items():
        np.testing.assert_array_equal(again[name], array)


def test_a_histogram_between_other_edges_is_refused(feed):
    arrays = feed(Moments(), torch.randn(5, 4, 3)).arrays() | {"edges": np.arange(4.0)}
    with pytest.raises(BadValue, match="4 other edges"):
        Moments().load([], arrays)


def test_the_state_does_not_grow_with_images(feed):
    def size(images):
        return sum(array.nbytes for array in feed(Moments(), torch.rand(images, 4, 5)).arrays().values())

    assert size(4) == size(64)


def test_one_unit_as_plain_numbers(feed):
    one = found(feed(Moments(), torch.full((2, 4, 1), 2.0))).of(0)
    assert (one.status, one.count, one.mean, one.variance, one.zeros) == ("constant", 8, 2.0, 0.0, 0.0)
    assert len(one.histogram) == len(one.edges) + 1
