"""The benchmark of dreams: its arithmetic, its rows, and a short run of all of it without the peers."""

import importlib.util
import io
import json
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from vitscope.models import load

HERE = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(HERE))  # where python itself looks when the script is run
    try:
        spec = importlib.util.spec_from_file_location("benchmark_dreams", HERE / "dreams.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(HERE))
    return module


@pytest.fixture(scope="module")
def model():
    return load("timm:test_vit", weights="random")


@pytest.fixture
def result(script):
    """Figures that divide well, of block 6 in two batches."""

    def row(batch, name, kind, seconds, products="float32", units=1, **more):
        return script.Row("6", batch, name, kind, products, units, seconds, **more)

    rows = [
        row("1x8", "bare", "bare", 0.20),
        row("1x8", "bare", "bare", 0.08, "bfloat16"),
        row("1x8", "ours", "ours", 0.25),
        row("1x8", "ours", "ours", 0.10, "bfloat16"),
        row("1x8", "authors", "authors", 0.30),
        row("1x8", "missing", "peer", None, remark="not here"),
        row("8x1", "ours", "ours", 0.40, units=8),
        row("8x1", "peer", "peer", 2.00, units=8),
        script.Row("all", "", "atlas, r", "atlas", units=7200, seconds=3600.0, remark="7,200 an hour"),
    ]
    facts = {"model": script.MODEL, "device": "cpu", "cpu": "C", "cores": 2, "threads": 1, "load": 0.5}
    return script.Result({**facts, "torch": "2"}, rows, {})


def test_figures_by_hand(result):
    assert [result.figures(row) for row in result.rows] == [
        {"seconds": pytest.approx(20)},
        {"seconds": pytest.approx(8)},
        {"seconds": pytest.approx(25), "over bare": pytest.approx(1.25)},
        {"seconds": pytest.approx(10), "over bare": pytest.approx(1.25)},
        {
            "seconds": pytest.approx(30),
            "over float32": pytest.approx(1.2),
            "over bfloat16": pytest.approx(3.0),
        },
        {},
        {"seconds": pytest.approx(5)},
        {"seconds": pytest.approx(25), "over float32": pytest.approx(5)},
        {},
    ]


def test_cells_say_whether_a_goal_is_met(script, result):
    red, green = "[red]{}[/]", "[green]{}[/]"
    assert [script.cells(result, row)[3:7] for row in result.rows[1:5]] == [
        ["8.00", "", "", ""],
        [green.format("25.00 / 27"), red.format("1.25 / 1.1"), "", ""],
        [green.format("10.00 / 11"), red.format("1.25 / 1.1"), "", ""],
        ["30.00", "", red.format("1.20 / 1.5"), red.format("3.00 / 3.5")],
    ]


def test_goals_are_those_of_one_model_on_one_core(script, result):
    machine = {**result.machine, "model": "timm:test_vit"}
    other = script.Result(machine, result.rows, {})
    assert script.cells(other, result.rows[4])[3:7] == ["30.00", "", "1.20", "3.00"]
    assert script.cells(result, result.rows[7])[3:7] == ["25.00", "", "5.00", ""]


def test_share_of_a_peak(script, result):
    row = script.Row("6", "64x8", "ours", "ours", "bfloat16", 64, 0.5, flops=200)
    fast = script.Result({**result.machine, "device": "G"}, [row], {"float32": 500.0, "bfloat16": 1000.0})
    assert fast.figures(row)["of peak"] == pytest.approx(0.4)
    assert script.cells(fast, row)[7] == "40%"


def test_the_table_has_every_row_and_what_is_missing(script, result):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(script.table(result, script.arguments([])))
    text = console.export_text()
    assert text.count("ours") == 3
    assert "not here" in text
    assert "7,200 an hour" in text
    assert "no GPU: the share of its peak is skipped" in text


def test_who_fails_is_a_row_that_says_why(script, model):
    def fails(task, steps, tick):
        raise ValueError("no grid\nhere")

    def absent(task, steps, tick):
        importlib.import_module("no_such_peer")

    dreamers = [script.Dreamer("one", fails), script.Dreamer("other", absent)]
    rows = script.alternated(script.Task(model, 0), dreamers, steps=1, rounds=2)
    assert [row.seconds for row in rows] == [None, None]
    assert rows[0].remark == "failed: ValueError: no grid here"
    assert rows[1].remark == "not here (No module named 'no_such_peer'): pip install 'vitscope[bench]'"


def test_steps_are_timed_after_two_and_alone_where_units_do_not_share_one(script, model):
    seen = []

    def run(task, steps, tick):
        seen.append((task.units, steps))
        for _ in range(steps):
            tick()
        return "done"

    times = iter([0.0, 100.0, 103.0, 104.0, 108.0] * 2)
    task = script.Task(model, 0, units=3)
    assert script.timed(script.Dreamer("all", run), task, 3, lambda: next(times)) == (8 / 3, "done")
    alone = script.timed(script.Dreamer("one", run, many=False), task, 3, lambda: next(times))
    assert alone == (8.0, "one unit at a time")
    assert seen == [(3, 5), (1, 5)]


def test_scores_are_means_of_each_unit_over_patches(script, model):
    hidden = torch.randn(6, 101, 192)  # 100 patches after one prefix token
    by_hand = [hidden[image, 1:, image // 2].mean() for image in range(6)]
    assert torch.allclose(script.Task(model, 0, units=3, copies=2).scores(hidden), torch.stack(by_hand))


def test_flops_of_blocks_by_hand(script, model):
    shallow, deep = (script.flops(script.Task(model, block, copies=2)) for block in (0, 5))
    tokens, width, hidden = 101, 64, 192
    linear = tokens * width * (3 * width + width + 2 * hidden) * 2  # forward, and back to what is moving
    attention = 2 * tokens * tokens * width * 3  # two products, each back to both of its factors
    assert deep - shallow == 5 * 2 * 2 * (linear + attention)  # blocks, images, multiply and add


def test_a_short_run_without_peers(script, capsys):
    words = ["timm:test_vit", "--peers", "none", "--steps", "1", "--rounds", "1", "--blocks", "0"]
    script.main([*words, "--batches", "1x2", "2x1", "--recipes", "olah_2017:short", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [(row["batch"], row["name"]) for row in told["rows"]] == [
        *(
            (batch, name)
            for batch in ("1x2", "2x1")
            for name in (
                "bare pass, float32",
                "bare pass, bfloat16",
                "vitscope, float32",
                "vitscope, bfloat16",
                "authors' settings, naively",
            )
        ),
        ("", "atlas, olah_2017:short"),
    ]
    assert all(row["seconds"] > 0 for row in told["rows"])
    assert told["rows"][4]["over float32"] > 0
    assert told["rows"][-1]["units"] == 6 * 192
    assert told["machine"]["model"].startswith("timm:test_vit")
