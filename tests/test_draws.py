"""Random numbers by seed and name."""

import hashlib

import numpy as np

from vitscope.draws import generator


def test_they_depend_on_seed_name_and_step_alone():
    first = generator(0, "a").random(4)
    assert np.array_equal(generator(0, "a", step=0).random(4), first)
    others = [generator(1, "a"), generator(0, "b"), generator(0, "a", step=1)]
    assert all(not np.isclose(other.random(4), first).any() for other in others)


def test_they_are_philox_under_the_hash_of_seed_and_name():
    key = int.from_bytes(hashlib.sha256(b"7\nimage").digest()[:16], "little")
    expected = np.random.Generator(np.random.Philox(key=key)).random(3)
    assert np.array_equal(generator(7, "image").random(3), expected)
