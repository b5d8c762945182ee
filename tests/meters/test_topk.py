"""Top-k against a full sort in plain Python, merge laws, maps, places; faults 29, 99 to 103, 106, 108."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitscope.errors import BadValue
from vitscope.meters.topk import TopK, place_name
from vitscope.models.vision_model import TOKENS, VECTOR, Site

SITE = "a.ffn"
LAWS = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sorted_in_full(values, ids, k, rank, prefix=0):
    """Per unit the k best (value, id): one entry an id, value down, id up; float64 and plain Python."""
    found = []
    for unit in range(values.shape[2]):
        best = {}
        for image, name in enumerate(ids):
            seen = [float(v) for v in values[image, prefix:, unit] if math.isfinite(v)]
            if seen:
                value = max(seen) if rank == "maximum" else sum(seen) / len(seen)
                best[name] = max(value, best.get(name, -math.inf))
        found.append(sorted(best.items(), key=lambda item: (-item[1], item[0]))[:k])
    return found


def entries(state, unit):
    return [(one.image, one.value) for one in state.result()[SITE].of(unit)]


def same_arrays(one, other):
    here, there = one.arrays(), other.arrays()
    assert here.keys() == there.keys()
    for name in here:
        np.testing.assert_array_equal(here[name], there[name], err_msg=name)


@pytest.mark.parametrize("rank", ["maximum", "mean"])
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_streaming_equals_a_full_sort_for_every_unit(feed, ids, rank, prefix):
    # eighths, so that means are exact in float32 and there are many ties
    values = torch.randint(-8, 9, (60, 16 + prefix, 12)).float() / 8
    state = feed(TopK(k=9, rank=rank), values, prefix=prefix)
    for unit, expected in enumerate(sorted_in_full(values, ids(60), 9, rank, prefix)):
        assert entries(state, unit) == expected


def test_the_prefix_takes_part_only_where_asked(feed):
    values = torch.zeros(3, 5, 1)
    values[:, 1:] = torch.rand(3, 4, 1)
    values[1, 0] = 7.0
    assert feed(TopK(k=3), values, prefix=1).result()[SITE].of(0)[0].value < 1
    best = feed(TopK(k=3, prefix_included=True), values, prefix=1).result()[SITE].of(0)[0]
    assert (best.value, best.place, best.patch_map.shape) == (7.0, 0, (2, 2))
    assert best.high == pytest.approx(float(values[1, 1:].max())), "the map shows the grid only"


@pytest.mark.parametrize("rank", ["maximum", "mean"])
def test_place_and_map_name_the_patch_that_was_raised(feed, rank):
    values = torch.rand(4, 1 + 12, 2)
    values[2, 1 + 7, 0] = 50.0
    best = feed(TopK(k=2, rank=rank), values, prefix=1).result()[SITE].of(0)[0]
    assert best.place == 8
    assert best.patch_map.argmax() == 7
    assert best.patch_map.shape == (3, 4)


def test_of_equal_places_the_lowest_is_named(feed):
    values = torch.zeros(2, 9, 1)
    values[0, [4, 6]] = 1.0
    assert feed(TopK(k=1), values).result()[SITE].of(0)[0].place == 4


def test_the_map_carries_the_values_to_within_its_steps(feed, ids):
    values = torch.randn(20, 16, 5)
    state = feed(TopK(k=4, rank="mean"), values)
    for unit in range(5):
        for one in state.result()[SITE].of(unit):
            truth = values[ids(20).index(one.image), :, unit].view(4, 4).numpy()
            np.testing.assert_allclose(one.values, truth, atol=(one.high - one.low) / 500)
            assert one.values.mean() == pytest.approx(one.value, abs=(one.high - one.low) / 500)
            assert (one.low, one.high) == (truth.min(), truth.max())


@pytest.mark.parametrize("scale", [3e38, 1e-42])
def test_maps_of_extreme_ranges_stay_finite(feed, scale):
    values = torch.tensor([[[-scale], [scale]], [[0.0], [scale / 2]]])
    assert all(np.isfinite(one.values).all() for one in feed(TopK(k=2), values).result()[SITE].of(0))


def test_fault_029_a_duplicate_image_fills_one_slot(feed, ids):
    values = torch.rand(12, 4, 6)
    values[1::2] = values[0::2]
    twice = [name for name in ids(6) for _ in range(2)]
    for batch in (1, 2, 5, 12):
        state = feed(TopK(k=9), values, twice, batch=batch)
        for unit, expected in enumerate(sorted_in_full(values, twice, 9, "maximum")):
            assert entries(state, unit) == expected
            assert len(expected) == 6


def test_fault_029_a_duplicate_that_differs_by_rounding_keeps_its_better_value(feed, ids):
    a, b, c = ids(3)
    values = torch.tensor([1.0, 2.0, 1.5, 3.0]).view(4, 1, 1)
    assert entries(feed(TopK(k=2), values, [a, b, a, c], batch=1), 0) == [(c, 3.0), (b, 2.0)]
    assert entries(feed(TopK(k=3), values, [a, b, a, c], batch=4), 0) == [(c, 3.0), (b, 2.0), (a, 1.5)]


def test_fault_099_nan_is_left_out_and_never_ranks(feed, ids):
    values = torch.rand(6, 4, 2)
    values[3, 1, 0] = math.nan
    values[4, :, 0] = math.nan
    for rank in ("maximum", "mean"):
        found = entries(feed(TopK(k=9, rank=rank), values), 0)
        expected = sorted_in_full(values, ids(6), 9, rank)[0]
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)
        assert len(found) == 5


def test_fault_100_infinity_is_left_out(feed, ids):
    values = torch.rand(6, 4, 2)
    values[3, 1, 0], values[2, 0, 0], values[5, :, 0] = math.inf, -math.inf, math.inf
    found = feed(TopK(k=9), values).result()[SITE].of(0)
    assert [(one.image, one.value) for one in found] == sorted_in_full(values, ids(6), 9, "maximum")[0]
    assert all(np.isfinite(one.values).all() for one in found)


@pytest.mark.parametrize("constant", [0.0, 2.5])
def test_fault_101_and_102_a_unit_that_never_changes_has_no_exemplars(feed, constant):
    values = torch.rand(6, 4, 2)
    values[..., 1] = constant
    found = feed(TopK(k=3), values).result()[SITE]
    assert found.of(1) == ()
    assert len(found.of(0)) == 3


def test_fault_103_ties_go_to_the_lowest_id(feed, ids):
    values = torch.rand(40, 4, 1) * 0.5
    values[:, 2] = 1.0
    state = feed(TopK(k=5), values, batch=7)
    assert [name for name, _ in entries(state, 0)] == sorted(ids(40))[:5]


def test_ids_that_share_their_first_half_still_order(feed):
    names = [f"{7:016x}{word:016x}" for word in (9, 0, 2**64 - 1, 4, 2)]
    values = torch.tensor([0.0, 1.0]).repeat(5, 1).unsqueeze(-1)
    assert [name for name, _ in entries(feed(TopK(k=3), values, names, batch=1), 0)] == sorted(names)[:3]


def test_fault_106_batches_of_any_size_give_the_same_bytes(feed):
    values = torch.randn(32, 9, 7)
    whole = feed(TopK(k=4, rank="mean"), values, batch=32)
    for batch in (1, 3, 8):
        same_arrays(feed(TopK(k=4, rank="mean"), values, batch=batch), whole)


def test_fault_108_fewer_images_than_k_give_fewer_rows(feed):
    found = feed(TopK(k=9), torch.rand(4, 4, 3)).result()[SITE]
    assert found.count.tolist() == [4, 4, 4]
    assert len(found.of(2)) == 4


@LAWS
@given(
    levels=st.lists(st.integers(0, 3), min_size=6, max_size=24),
    names=st.integers(3, 12),
    cuts=st.tuples(st.integers(0, 24), st.integers(0, 24)),
    k=st.integers(1, 5),
)
def test_merging_is_commutative_associative_and_idempotent(feed, ids, levels, names, cuts, k):
    """Values depend on the image alone, many tie, and ids return in several shards."""
    table = torch.randint(0, 3, (names, 4, 2)).float()
    picked = [index * level % names for index, level in enumerate(levels)]
    low, high = sorted(min(cut, len(levels)) for cut in cuts)
    groups = [picked[:low], picked[low:high], picked[high:]]
    meter = TopK(k=k)
    a, b, c = (feed(meter, table[group], [ids(names)[index] for index in group]) for group in groups)
    whole = feed(meter, table[picked], [ids(names)[index] for index in picked], batch=3)
    for one, two, three in itertools.permutations((a, b, c)):
        same_arrays(one.merge(two).merge(three), whole)
        same_arrays(one.merge(two.merge(three)), whole)
    same_arrays(whole.merge(whole), whole)
    same_arrays(whole.merge(b), whole)


def test_arrays_and_load_are_inverse(feed):
    meter = TopK(k=3)
    values = torch.randn(9, 4, 5)
    state = feed(meter, values)
    again = meter.load(list(state.sites.values()), state.arrays())
    same_arrays(again, state)
    same_arrays(again.merge(feed(meter, values + 1)), state.merge(feed(meter, values + 1)))
    assert again.arrays()[f"{SITE}/image"].shape == (5, 3, 16)


def test_the_state_does_not_grow_with_images(feed):
    def size(images):
        return sum(array.nbytes for array in feed(TopK(k=3), torch.rand(images, 4, 5)).arrays().values())

    assert size(4) == size(64)


def test_k_and_rank_are_checked():
    with pytest.raises(BadValue, match="at least 1, not 0"):
        TopK(k=0)
    with pytest.raises(BadValue, match=r"no rank 'median'.*'maximum' or its 'mean'"):
        TopK(rank="median")
    assert (TopK().name, TopK(rank="mean").name) == ("topk_maximum", "topk_mean")


def test_places_are_named_as_addresses_name_them():
    site = Site("a", "a", TOKENS, 4, grid=(3, 5), prefix_tokens=2)
    assert [place_name(site, place) for place in (0, 1, 2, 8)] == ["cls", "prefix 1", "0,0", "1,1"]
    assert all(site.place_index(place_name(site, place)) == place for place in (0, 2, 8, 16))
    assert place_name(Site("logits", "", VECTOR, 10), 0) == "0"
