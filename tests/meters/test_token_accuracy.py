"""Accuracy of several answers an image: against a plain count, merged in any way, ties, what does not fit."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue
from vitscope.meters.accuracy import Accuracy
from vitscope.meters.reading import Reading
from vitscope.meters.token_accuracy import TokenAccuracy
from vitscope.models.vision_model import Site

CLASSES, ANSWERS = 7, 4
SITE = Site("logits", "head", "image unit", CLASSES)


def batch_of(labels):
    ids = tuple(f"{index:032x}" for index in range(len(labels)))
    return ImageBatch(ids, ids, torch.zeros(len(labels), 3, 1, 1), labels)


def fed(answers, labels, *, batch=4, meter=None):
    """The state that has read logits "image answer unit" as a model hands them out."""
    state = (meter or TokenAccuracy()).start([SITE])
    for start in range(0, len(labels), batch):
        part = answers[start : start + batch]
        rows = part.reshape(-1, 1, CLASSES)
        state.read(Reading(SITE, rows, batch_of(labels[start : start + batch])))
    return state


@pytest.fixture
def answers():
    return torch.randn(13, ANSWERS, CLASSES)


@pytest.fixture
def labels():
    return torch.randint(0, CLASSES, (13,))


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_shares_equal_a_plain_count(answers, labels, k, dtype):
    answers = answers.to(dtype)
    found = fed(answers, labels, meter=TokenAccuracy((k,))).result()
    for answer in range(ANSWERS):
        right = sum(
            int(label) in sorted(range(CLASSES), key=lambda index, row=row: -float(row[index]))[:k]
            for row, label in zip(answers[:, answer], labels, strict=True)
        )
        assert found.share(answer, k=k).right == right
        assert found.values(k)[answer] == pytest.approx(100 * right / 13)
    assert len(found) == ANSWERS


def test_one_answer_an_image_is_what_accuracy_finds(answers, labels):
    answers[3, 0] = 1.0  # all classes alike
    answers[4, 0, 2] = float("nan")
    answers[5, 0, 2] = float("inf")
    plain = Accuracy().start([SITE])
    plain.read(Reading(SITE, answers[:, :1], batch_of(labels)))
    found = fed(answers[:, :1], labels).result()
    for k in (1, 5):
        assert found.share(0, k=k) == plain.result().share(k)


@given(cuts=st.lists(st.integers(0, 12), max_size=4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_parts_in_any_order_and_grouping_are_the_whole(cuts, seed):
    draw = torch.Generator().manual_seed(seed)
    answers = torch.randn(12, ANSWERS, CLASSES, generator=draw)
    labels = torch.randint(-1, CLASSES, (12,), generator=draw)
    whole = fed(answers, labels).arrays()
    edges = [0, *sorted(cuts), 12]
    parts = [fed(answers[a:b], labels[a:b]) for a, b in pairwise(edges)]
    left, right = parts[0], parts[-1]
    for part in parts[1:]:
        left = left.merge(part)
    for part in parts[-2::-1]:
        right = right.merge(part)
    for merged in (left, right):
        for name, array in merged.arrays().items():
            assert np.array_equal(array, whole[name]), name


def test_a_state_is_its_arrays(answers, labels):
    state = fed(answers, labels)
    again = TokenAccuracy().load([SITE], state.arrays())
    again.merge(again)
    assert all(np.array_equal(again.arrays()[name], array) for name, array in state.arrays().items())
    assert again.merge(state).result().images == 26


def test_images_without_a_label_do_not_count(answers, labels):
    labels[[2, 7]] = -1
    known = labels >= 0
    found, plain = fed(answers, labels).result(), fed(answers[known], labels[known]).result()
    assert (found.images, found.unlabelled) == (11, 2)
    assert np.array_equal(found.right, plain.right)


def test_no_label_at_all_is_an_error(answers):
    with pytest.raises(BadValue, match="none of the 13 images has a label, so there is no accuracy"):
        fed(answers, torch.full((13,), -1)).result()


def test_labels_of_another_model_are_an_error(answers, labels):
    labels[4] = CLASSES
    with pytest.raises(BadValue, match=r"an image has the label 7, but logits has 7 classes \(0..6\)"):
        fed(answers, labels)


def test_rows_that_are_not_as_many_for_each_image_are_an_error(labels):
    rows = Reading(SITE, torch.randn(9, 1, CLASSES), batch_of(labels[:4]))
    with pytest.raises(BadValue, match="9 rows of logits are not as many for each of 4 images"):
        TokenAccuracy().start([SITE]).read(rows)


def test_states_with_other_numbers_of_answers_do_not_merge(answers, labels):
    with pytest.raises(BadValue, match="4 and 3 answers an image cannot be counted together"):
        fed(answers, labels).merge(fed(answers[:, :3], labels))


def test_a_k_that_was_not_counted_is_an_error(answers, labels):
    with pytest.raises(BadValue, match="the first 3 were not counted, only the first 1, 5"):
        fed(answers, labels).result().share(0, k=3)
    with pytest.raises(BadValue, match="each at least 1, not"):
        TokenAccuracy((0,))
