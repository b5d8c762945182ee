"""The tree of errors: as drawn, with exit codes and near names."""

import inspect
import re

import pytest

from vitscope import errors
from vitscope.errors import Failure, UsageError, VitscopeError, nearest, suggestion

CLASSES = [
    value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)
]


def test_the_drawn_tree_is_the_tree():
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__)) | {"VitscopeError"}
    assert drawn == {value.__name__ for value in CLASSES}


@pytest.mark.parametrize("error", CLASSES)
def test_usage_errors_exit_2_and_failures_1(error):
    assert issubclass(error, (UsageError, Failure)) or error is VitscopeError
    assert error.exit_code == (2 if issubclass(error, UsageError) else 1)
    assert error.__doc__


def test_the_nearest_names_come_first():
    assert nearest("block.6.ffn", ["blocks.6.ffn", "blocks.7.ffn", "norm"])[0] == "blocks.6.ffn"
    assert nearest("zzz", ["norm"]) == []
    assert suggestion("zzz", ["norm"]) == ""
    assert suggestion("nrm", ["norm", "head"]) == " Nearest: 'norm'."
