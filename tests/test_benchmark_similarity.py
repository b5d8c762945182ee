"""The benchmark of CKA: it measures what it says, on models so small that it takes no time."""

import argparse
import importlib.util
import json
from pathlib import Path

import pytest

from vitscope.testing.doubles import tiny_cnn, tiny_vit

HERE = Path(__file__).parents[1] / "benchmarks"
ASKED = argparse.Namespace(
    weights=None, source=None, images=24, gram=12, batch_size=8, checked=16, threads=1, one=None
)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark_similarity", HERE / "similarity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ours_is_timed_and_equals_float64(script, monkeypatch):
    models = iter([tiny_vit(), tiny_cnn()])
    monkeypatch.setattr(script, "load", lambda *_, **__: next(models))
    found = script.one("vitscope", (0, 2), ASKED)
    assert found["bare"] > 0
    assert found["tool"] > 0
    assert found["memory"] >= 0
    assert found["error"] < script.ERROR_LIMIT
    assert (len(found["value"]), len(found["value"][0])) == (3, 5)
    assert script.cells(json.loads(json.dumps(found)))[0] == "8"


def test_who_is_not_installed_has_a_row_that_says_so(script, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    found = script.one("torch-cka", (0, 2), ASKED)
    assert script.cells(found) == ["", "", "", "", "", "not installed: pip install torch-cka"]
