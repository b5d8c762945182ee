"""The local engine runs work in order, lazily, and ends with the first error; engines are opened by name."""

import pytest

from vitscope.engine import ENGINES, open_engine
from vitscope.engine.engine import Engine
from vitscope.engine.local import LocalEngine
from vitscope.errors import UnknownName


def test_work_runs_in_order_and_only_when_asked_for():
    ran = []
    results = LocalEngine().map(lambda piece: ran.append(piece) or piece * 2, [3, 1, 2])
    assert ran == []
    assert next(results) == (3, 6)
    assert ran == [3]
    assert list(results) == [(1, 2), (2, 4)]


def test_an_error_in_a_task_ends_the_map():
    results = LocalEngine().map(lambda piece: 1 // piece, [1, 0, 1])
    assert next(results) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_engines_are_opened_by_name():
    assert isinstance(open_engine("local"), LocalEngine)
    assert isinstance(open_engine(), Engine)
    assert "local" in ENGINES
    with pytest.raises(UnknownName, match=r"no engine 'locale'. Nearest: 'local'"):
        open_engine("locale")
