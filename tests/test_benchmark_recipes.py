"""The benchmark of recipes: the same units every time, its arithmetic, and a short run that resumes."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitscope.dream import recipe_named
from vitscope.testing import tiny_vit

HERE = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark_recipes", HERE / "recipes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_more_units_include_fewer(script):
    model = tiny_vit()
    few, many = (script.drawn(model, "blocks.*.ffn", ["blocks.0.ffn"], count) for count in (3, 9))
    assert len(few) == len(set(few)) == 3
    assert len(many) == len(set(many)) == 9
    assert set(few) < set(many)
    assert not any(address.startswith("blocks.0.") for address in many)


def row(recipe: str, address: str, clean: float, robust: float) -> dict:
    return {"recipe": recipe, "address": address, "clean": clean, "robust": robust, "seconds": 2.0}


def test_figures_by_hand(script):
    natural = [row("natural", "a", 1.0, 0.5), row("natural", "b", 1.0, 0.5), row("natural", "c", 1.0, 0.5)]
    mine = [row("r", "a", 2.0, 0.9), row("r", "b", 1.5, 0.4), row("r", "c", 0.0, 0.6)]
    found = script.summary(mine, {each["address"]: each for each in natural})
    assert found == ["3", "1.500", "0.600", "66.7 %", "66.7 %", "33.3 %", "1", "2.00"]
    table = script.table([*natural, *mine, row("other", "z", 1, 1)], {"a", "b", "c"}, title="t")
    assert table.row_count == 2  # a recipe none of whose units were asked for has no line


def test_a_picture_is_scored_clean_and_robust(script):
    model = tiny_vit()
    grey, noise = torch.full((3, 32, 32), 0.5), torch.rand(3, 32, 32)
    scores = [script.scores(model, "blocks.1.ffn:3", pixels) for pixels in (grey, noise, noise)]
    assert scores[1] == scores[2] != scores[0]


def test_it_runs_and_goes_on_where_it_stopped(script, tmp_path, monkeypatch, capsys):
    short = recipe_named("ghiasi_2022").replace(steps=2, copies=2)
    monkeypatch.setattr(script, "recipe_named", lambda _: short)
    monkeypatch.setattr(script, "load", lambda *_, **__: tiny_vit())
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    out = tmp_path / "rows.jsonl"
    command = [
        "recipes",
        "--source",
        f"folder:{tmp_path}",
        "--sites",
        "blocks.0.ffn",
        "--recipe",
        "quick",
        "--float32",
        "--out",
        str(out),
    ]
    threads = torch.get_num_threads()
    for units in ("1", "2", "2"):
        monkeypatch.setattr(sys, "argv", [*command, "--units", units])
        script.main()
    torch.set_num_threads(threads)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(each["recipe"] for each in rows) == ["natural", "natural", "quick float32", "quick float32"]
    assert len({each["address"] for each in rows}) == 2
    assert all(each["seconds"] > 0 for each in rows if each["recipe"] != "natural")
    assert "quick" in capsys.readouterr().out
