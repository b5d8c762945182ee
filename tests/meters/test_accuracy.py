"""Accuracies against a plain count, merge laws, ties, labels that do not fit, and fault 99."""

import itertools

import numpy as np
import pytest
import torch

from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue
from vitscope.meters.accuracy import Accuracy
from vitscope.meters.ranking import NEVER, ranks_of
from vitscope.meters.reading import Reading
from vitscope.models.vision_model import Site

CLASSES = 12
SITE = Site("logits", "head", "image unit", CLASSES)


def read(logits, labels, ids, *, batch=4, top=(1, 5)):
    state = Accuracy(top).start([SITE])
    for start in range(0, len(logits), batch):
        some = tuple(ids[start : start + batch])
        values = logits[start : start + batch, None]
        pixels = torch.zeros(len(some), 3, 1, 1)
        state.read(Reading(SITE, values, ImageBatch(some, some, pixels, labels[start : start + batch])))
    return state


@pytest.fixture
def logits():
    return torch.randn(30, CLASSES)


@pytest.fixture
def labels():
    return torch.randint(0, CLASSES, (30,))


@pytest.mark.parametrize("k", [1, 2, 5, CLASSES])
def test_shares_equal_a_plain_count(logits, labels, ids, k):
    found = read(logits, labels, ids(30), top=(k,)).result()
    right = sum(
        int(label) in sorted(range(CLASSES), key=lambda index: -float(row[index]))[:k]
        for row, label in zip(logits, labels, strict=True)
    )
    assert found.share(k).right == right
    assert found.share(k).value == pytest.approx(100 * right / 30)
    assert found.row()[f"top{k}"] == found.share(k).value


def test_top_1_is_argmax_even_where_logits_are_equal():
    logits = torch.tensor([[[1.0, 3.0, 3.0, 3.0]], [[2.0, 2.0, 2.0, 2.0]]])
    assert int(logits[0, 0].argmax()) == 1
    assert ranks_of(logits, torch.tensor([1, 0])).tolist() == [[0], [0]]
    assert ranks_of(logits, torch.tensor([2, 3])).tolist() == [[1], [3]]


def test_fault_099_an_image_with_logits_that_are_not_finite_is_never_right(ids):
    logits = torch.zeros(3, CLASSES)
    logits[0, 3] = float("nan")
    logits[1, 4] = float("inf")
    found = read(logits, torch.tensor([0, 4, 0]), ids(3)).result()
    by_id = dict(zip((row.tobytes().hex() for row in found.ids), found.ranks.tolist(), strict=True))
    assert [by_id[name] for name in ids(3)] == [NEVER, NEVER, 0]
    assert found.share(CLASSES).right == 1


def test_images_without_a_label_do_not_count(logits, labels, ids):
    labels[::3] = -1
    found = read(logits, labels, ids(30)).result()
    assert (len(found), found.unlabelled, found.share().images) == (20, 10, 20)
    some = labels >= 0
    assert found.share().right == int((logits[some].argmax(1) == labels[some]).sum())


def test_without_any_label_there_is_no_accuracy(logits, ids):
    state = read(logits, torch.full((30,), -1), ids(30))
    with pytest.raises(BadValue, match=r"none of the 30 images has a label.*Give --labels FILE"):
        state.result()


def test_a_label_that_the_model_does_not_have(logits, labels, ids):
    labels[7] = CLASSES
    with pytest.raises(BadValue, match=r"the label 12, but logits has 12 classes \(0..11\)"):
        read(logits, labels, ids(30))


def test_any_split_and_order_gives_the_same_arrays(logits, labels, ids):
    names = ids(30)
    whole = read(logits, labels, names).arrays()
    cuts = [slice(0, 7), slice(7, 8), slice(8, 30)]
    parts = [read(logits[cut], labels[cut], names[cut], batch=3) for cut in cuts]
    for order in itertools.permutations(parts):
        merged = order[0].merge(order[1].merge(order[2])).arrays()
        other = order[0].merge(order[1]).merge(order[2]).arrays()
        for name, array in whole.items():
            np.testing.assert_array_equal(merged[name], array)
            np.testing.assert_array_equal(other[name], array)


def test_a_state_is_its_arrays(logits, labels, ids):
    state = read(logits, labels, ids(30))
    again = Accuracy().load([SITE], state.arrays())
    np.testing.assert_array_equal(again.result().ranks, state.result().ranks)
    assert again.result().row() == state.result().row()


def test_two_passes_are_compared_image_by_image(logits, labels, ids):
    one = read(logits, labels, ids(30)).result()
    order = torch.randperm(30)
    other = read(logits[order], labels[order], [ids(30)[index] for index in order]).result()
    ratio = one.relative_to(other, k=5)
    assert (ratio.value, ratio.low, ratio.high) == (100.0, 100.0, 100.0)
    assert one.p_value(other) == 1.0
    never = read(torch.zeros(30, CLASSES).scatter_(1, labels[:, None], -1.0), labels, ids(30)).result()
    assert never.relative_to(one, k=5).value == 0.0
    assert never.p_value(one, k=5) == pytest.approx(2 * 0.5 ** int(one.right(5).sum()))


def test_only_the_same_images_are_compared(logits, labels, ids):
    one, other = (read(logits[part], labels[part], ids(30)[part]).result() for part in (slice(9), slice(8)))
    with pytest.raises(BadValue, match=r"only the same images can be compared.* 9 and 8"):
        one.relative_to(other)


def test_the_first_k_begin_at_one(logits, labels, ids):
    with pytest.raises(BadValue, match="k is at least 1, not 0"):
        read(logits, labels, ids(30)).result().right(0)
    with pytest.raises(BadValue, match="top lists the first k classes"):
        Accuracy(())
