"""The README says what happens: its blocks run, and print what it shows."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def load_script():
    spec = importlib.util.spec_from_file_location("readme", ROOT / "docs" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


readme = load_script()


@pytest.mark.slow
def test_every_block_prints_what_the_readme_shows(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # beside other tests two threads are far slower than one
    text = readme.README.read_text()
    assert readme.masked(readme.refreshed(text, tmp_path)) == readme.masked(text), "run `just readme`"


def test_the_mask_hides_only_what_may_differ():
    assert readme.masked("score 1.25 in 40 seconds, 9 units") == "score # in # seconds, 9 units"


def test_a_command_that_fails_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="false ended with 1"):
        readme.refreshed("```console\n$ false\n```", tmp_path)


def test_it_fits_its_purpose():
    lines = readme.README.read_text().splitlines()
    assert len(lines) <= 165
    assert any("vitscope demo" in line for line in lines[:40]), "the first thing to try comes first"
