"""Types are checked while tests run: plain ones, those of fields, and the axes of arrays."""

import jaxtyping
import numpy as np
import pytest

from vitscope.data.source import Shard, cut
from vitscope.studies.concepts_units import sharpness

TWO, THREE = np.zeros(2), np.ones(3)


def test_plain_types_are_checked_in_calls_and_fields():
    with pytest.raises(jaxtyping.TypeCheckError, match="count='3'"):
        cut("3", 2)
    with pytest.raises(jaxtyping.TypeCheckError, match="start='0'"):
        Shard("a", "0", 2)


def test_axes_are_compared_across_arguments():
    assert sharpness(np.ones((3, 1)), THREE, THREE, whole=THREE > 0).shape == (3,)
    with pytest.raises(jaxtyping.TypeCheckError, match="unit"):
        sharpness(np.ones((3, 1)), TWO, THREE, whole=THREE > 0)
    with pytest.raises(jaxtyping.TypeCheckError, match="best"):
        sharpness(THREE, THREE, THREE, whole=THREE > 0)
