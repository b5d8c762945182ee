"""What studies over depth share: the first pattern that fits, ragged numbers as an array, quartiles."""

import numpy as np
import pytest

from vitscope.errors import UnknownSite
from vitscope.studies.depth import PATTERNS, along, column, first_pattern, padded, quartiles
from vitscope.testing.doubles import tiny_cnn, tiny_vit


def test_the_first_pattern_that_a_model_has_sites_for():
    vit, cnn = tiny_vit(), tiny_cnn()
    assert first_pattern(vit, PATTERNS) == "blocks.*.ffn"
    assert first_pattern(cnn, PATTERNS) == "stages.*.*"
    assert first_pattern(vit, ("no.such", "embed")) == "embed"
    with pytest.raises(
        UnknownSite, match=r"has no site that matches 'a' or 'b'\. Give others with --set sites"
    ):
        first_pattern(cnn, ("a", "b"))
    with pytest.raises(UnknownSite, match="has no site that matches no pattern"):
        first_pattern(cnn, ())


def test_rows_are_padded_with_nan():
    found = padded([np.array([1.0, 2.0]), np.array([3.0])])
    assert found[0].tolist() == [1.0, 2.0]
    assert found[1, 0] == 3.0
    assert np.isnan(found[1, 1])
    assert padded([]).shape == (0, 0)


def test_quartiles_are_of_what_is_finite():
    values = np.array([1.0, np.nan, 2.0, 3.0, np.inf, 4.0, 5.0])
    assert quartiles("x", values) == {"x": 3.0, "x_q25": 2.0, "x_q75": 4.0}
    assert all(np.isnan(value) for value in quartiles("x", np.array([np.nan])).values())


def test_depth_is_from_0_to_100_and_columns_have_nan_for_none():
    assert along(3).tolist() == [0.0, 50.0, 100.0]
    assert (along(1).tolist(), along(0).tolist()) == ([100.0], [])
    found = column([{"a": 1}, {"a": None}, {}], "a")
    assert found[0] == 1.0
    assert np.isnan(found[1:]).all()
