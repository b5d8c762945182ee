"""Progress: plain lines where there is no terminal, few of them, and rates that count this run only."""

import io

import pytest
from rich.console import Console

from vitscope import progress
from vitscope.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    time = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: time[0])
    return time


def lines(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def test_one_plain_line_after_each_silence_and_one_at_the_end(clock):
    console = Console(file=io.StringIO(), markup=False, highlight=False)
    with Progress(console) as told:
        for done in range(101):
            told("scanning", done, 100)
            clock[0] += 1
        told("scanning", 100, 100)
    assert lines(console) == [
        "scanning: 30 of 100, 1.0/s, 0:01:10 left",
        "scanning: 60 of 100, 1.0/s, 0:00:40 left",
        "scanning: 90 of 100, 1.0/s, 0:00:10 left",
        "scanning: 100 of 100, 1.0/s",
    ]


def test_what_is_slow_is_counted_by_the_minute(clock):
    console = Console(file=io.StringIO())
    with Progress(console) as told:
        told("dreaming", 0, 100)
        clock[0] += 300
        told("dreaming", 10, 100)
    assert lines(console) == ["dreaming: 10 of 100, 2.0/min, 0:45:00 left"]


def test_what_an_earlier_run_had_done_does_not_count_as_speed(clock):
    console = Console(file=io.StringIO())
    with Progress(console) as told:
        told("scanning", 900, 1000)
        clock[0] += 50
        told("scanning", 1000, 1000)
    assert lines(console) == ["scanning: 1000 of 1000, 2.0/s"]


def test_a_terminal_gets_a_bar():
    console = Console(file=io.StringIO(), force_terminal=True)
    with Progress(console) as told:
        told.stage("dreaming")(3, 3)
    assert "dreaming" in console.file.getvalue()
    assert "3/3" in console.file.getvalue()


def test_a_stage_told_of_once_all_is_done_has_no_rate():
    console = Console(file=io.StringIO(), width=200)
    with Progress(console) as told:
        told("similarity", 60, 60)
    assert lines(console) == ["similarity: 60 of 60"]
