"""Random numbers: keyed per unit; the even ones fill the cube and follow the same laws."""

import math

import numpy as np
import pytest

from vitscope.draws import generator
from vitscope.dream.augment import Affine, ChannelNoise, ColourShift, Jitter, Moment
from vitscope.dream.numbers import AXES, EvenNumbers, Numbers

STEPS, COPIES = 64, 4


def even(step: int, *, seed: int = 0, text: str = "a", copies: int = COPIES) -> EvenNumbers:
    return EvenNumbers(seed, text, step=step, steps=STEPS, copies=copies)


def all_steps(draw, **kwargs) -> np.ndarray:
    return np.concatenate([draw(even(step, **kwargs)) for step in range(STEPS)])


def test_both_kinds_are_numbers():
    assert isinstance(even(0), Numbers)
    assert isinstance(generator(0, "a", step=0), Numbers)


def test_even_numbers_are_keyed_by_seed_text_and_step():
    first = even(3).random((COPIES, 2))
    assert np.array_equal(even(3).random((COPIES, 2)), first)
    for other in (even(4), even(3, seed=1), even(3, text="b")):
        assert not np.array_equal(other.random((COPIES, 2)), first)


def test_they_are_uniform_and_more_even_than_chance():
    """Every one of 16 x 16 cells of each pair of axes holds one of 256 points, give or take."""
    points = all_steps(lambda source: source.random((COPIES, 6)))
    assert points.shape == (STEPS * COPIES, 6)
    assert 0 <= points.min() < points.max() < 1
    chance = np.concatenate([generator(0, "a", step=s).random((COPIES, 6)) for s in range(STEPS)])
    for axis in range(6):
        counts = np.histogram(points[:, axis], bins=64, range=(0, 1))[0]
        assert counts.tolist() == [4] * 64
    worse = [
        _unevenness(points[:, pair]) < 0.5 * _unevenness(chance[:, pair])
        for pair in ([0, 1], [2, 3], [4, 5], [0, 5])
    ]
    assert all(worse)


def _unevenness(points: np.ndarray) -> float:
    """Variance of the counts in 8 x 8 cells."""
    return float(np.histogramdd(points, bins=8, range=[(0, 1)] * 2)[0].var())


def test_the_mean_of_a_smooth_function_is_nearer_to_its_expectation():
    """E[1 / sigma] of three channels' colour shifts: sinh(1)."""
    moment = [Moment(step, STEPS, COPIES, (8, 8)) for step in range(STEPS)]

    def error(sources) -> float:
        drawn = [ColourShift().draw(source, at)[:, 1] for source, at in zip(sources, moment, strict=True)]
        return float(np.abs((1 / np.concatenate(drawn)).mean(axis=0) - math.sinh(1)).mean())

    texts = "abcdefgh"
    evenly = np.mean([error([even(s, text=text) for s in range(STEPS)]) for text in texts])
    by_chance = np.mean([error([generator(0, text, step=s) for s in range(STEPS)]) for text in texts])
    assert evenly < 0.2 * by_chance


def test_whole_numbers_normals_and_choices_follow_their_laws():
    rolls = all_steps(lambda source: source.integers(-2, 1, size=(COPIES, 2), endpoint=True))
    assert sorted(set(rolls.ravel().tolist())) == [-2, -1, 0, 1]
    assert np.bincount(rolls[:, 0] + 2).tolist() == [64] * 4
    normal = all_steps(lambda source: source.standard_normal((COPIES, 3)))
    assert normal.mean() == pytest.approx(0, abs=0.02)
    assert normal.std() == pytest.approx(1, abs=0.02)
    picked = all_steps(lambda source: source.choice([10.0, 20.0], size=COPIES))
    assert sorted(picked.tolist()) == [10.0] * 128 + [20.0] * 128


def test_what_has_no_axis_of_copies_or_too_many_numbers_is_independent():
    """Pixel noise would need more axes than there are, a shared roll has no axis of copies."""
    source = even(2)
    expected = generator(0, "a", step=3)
    assert np.array_equal(source.random((1, 2)), expected.random((1, 2)))
    assert np.array_equal(source.random((COPIES, AXES + 1)), expected.random((COPIES, AXES + 1)))
    assert source.random((COPIES, AXES)).shape == (COPIES, AXES)
    assert np.array_equal(source.random((COPIES, 1)), expected.random((COPIES, 1)))


@pytest.mark.parametrize(
    "augmentation",
    [Jitter(16, shared=False), ColourShift(), ChannelNoise(), Affine((8,), (0.9, 1.1), (-5.0, 5.0))],
    ids=repr,
)
def test_augmentations_draw_from_either(augmentation):
    moment = Moment(3, STEPS, COPIES, (12, 16))
    evenly = augmentation.draw(even(3), moment)
    by_chance = augmentation.draw(generator(0, "a", step=4), moment)
    assert evenly.shape == by_chance.shape
    assert np.isfinite(evenly).all()
    assert not np.array_equal(evenly, by_chance)
