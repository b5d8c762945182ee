"""How far a long job is: a bar with rate and time left in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

SILENCE = 30.0
"""Seconds between two plain lines of one stage."""


class Progress:
    """Progress of a job with named stages, shown on a console; `with Progress(console) as progress: ...`.

    Calling it says that `done` of `total` pieces of a stage are finished.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._stages: dict[str, _Stage] = {}

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say that `done` of `total` pieces of a stage are finished."""
        if stage not in self._stages:
            task = self._bars.add_task(stage, total=total, completed=done, rate="")
            self._stages[stage] = _Stage(task, done)
        known = self._stages[stage]
        rate = known.rate(done)
        self._bars.update(known.task, completed=done, total=total, rate=_paced(rate))
        if not self._console.is_terminal and known.is_due(done, total):
            told = (f"{stage}: {done} of {total}", _paced(rate), _left(total - done, rate))
            self._console.print(", ".join(filter(None, told)), soft_wrap=True)

    def stage(self, name: str) -> Callable[[int, int], None]:
        """The same for a job with one stage."""
        return lambda done, total: self(name, done, total)


def _paced(rate: float) -> str:
    """A rate in pieces a second, or a minute where that is the number one can read; nothing if unknown."""
    if not rate:
        return ""
    return f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"


def _left(pieces: int, rate: float) -> str:
    """How long what is left takes at this rate: "0:01:10 left"."""
    return f"{timedelta(seconds=round(pieces / rate))} left" if pieces > 0 and rate > 0 else ""


class _Stage:
    """When a stage began, from where, and when it last spoke."""

    def __init__(self, task: TaskID, done: int) -> None:
        self.task = task
        self._first = done
        self._began = self._spoke = monotonic()
        self._ended = False

    def rate(self, done: int) -> float:
        """Pieces a second since the stage began; what an earlier run had finished does not count."""
        return (done - self._first) / max(monotonic() - self._began, 1e-9)

    def is_due(self, done: int, total: int) -> bool:
        """Whether a plain line should be printed now: after some silence, and once at the end."""
        ends = done >= total and not self._ended
        due = ends or monotonic() - self._spoke >= SILENCE
        if due:
            self._spoke = monotonic()
            self._ended = done >= total
        return due
