"""What a step of a dream costs: ours against torch-lucent, torch-dreams, Horama, the authors' settings
written down naively, and the bare forward and backward pass that nobody can do without.

    pip install 'vitscope[bench]'
    python benchmarks/dreams.py
    python benchmarks/dreams.py --blocks 6 --rounds 5 --peers none --json

Everyone shows the model the same number of images in a step. All take turns in one process, several rounds,
and the best round of each counts: processor seconds, or seconds on a GPU. Loading and the first two steps are
left out. See `dreamers.py` for how each is driven.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from dreamers import AUTHORS, PEERS, Dreamer, Task, bare, ours, timed
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from vitscope.dream import recipe_named
from vitscope.dream.objectives import unit
from vitscope.dream.plan import plan_dreams
from vitscope.dream.recipes import GHIASI_2022
from vitscope.lean import Forms
from vitscope.models import load
from vitscope.models.vision_model import VisionModel

MODEL = "timm:vit_tiny_patch16_224"

OVER_BARE = 1.1
"""The goal for a step of ours, as a multiple of the bare pass in the same forms."""

SECONDS = {("6", "float32"): 27.0, ("6", "bfloat16"): 11.0}
"""The goals for 100 steps with 8 copies on one core, by block and type."""

FASTER = {
    ("6", "float32"): 1.5,
    ("6", "bfloat16"): 3.5,
    ("2", "float32"): 2.5,
    ("2", "bfloat16"): 6.0,
}
"""The goals for the authors' settings, naively, over ours, by block and type of ours."""

SIDE = 4096
"""Of the square matrices whose product is taken for the peak of a GPU."""


@dataclass(frozen=True)
class Row:
    """What was measured of one dreamer.

    Attributes:
        block: which block's units; "all" for an atlas.
        batch: units x copies.
        name, kind, products: of the dreamer.
        units: how many a step serves.
        seconds: of a step; None where there is no figure.
        remark: what there is to say about it, or why there is no figure.
        flops: of a step, counted; 0 where they were not.
    """

    block: str
    batch: str
    name: str
    kind: str = "peer"
    products: str = "float32"
    units: int = 1
    seconds: float | None = None
    remark: str = ""
    flops: int = 0


@dataclass(frozen=True)
class Result:
    """Everything that is printed.

    Attributes:
        machine: where it was measured.
        rows: one for every dreamer, batch and block, and for every recipe of an atlas.
        peak: flops a second of a large matrix product, by type; empty without a GPU.
    """

    machine: dict[str, Any]
    rows: list[Row]
    peak: dict[str, float]

    def other(self, row: Row, *, kind: str, products: str) -> float | None:
        """Seconds of somebody else at the same task."""
        for each in self.rows:
            if (each.block, each.batch, each.kind, each.products) == (row.block, row.batch, kind, products):
                return each.seconds
        return None

    def figures(self, row: Row) -> dict[str, float]:
        """What follows from a row.

        "seconds": of a unit in 100 steps. "over bare": of ours, by the bare pass in the same forms. "over
        float32" and "over bfloat16": of anybody else, by ours of that type. "of peak": flops a second.
        """
        found: dict[str, float] = {}
        if row.seconds is None or row.kind == "atlas":
            return found
        found["seconds"] = 100 * row.seconds / row.units
        others = {"over bare": ("bare", row.products)} if row.kind == "ours" else {}
        if row.kind in ("authors", "peer"):
            others = {f"over {products}": ("ours", products) for products in ("float32", "bfloat16")}
        for name, (kind, products) in others.items():
            other = self.other(row, kind=kind, products=products)
            if other:
                found[name] = row.seconds / other
        if row.flops and self.peak:
            found["of peak"] = row.flops / row.seconds / self.peak[row.products]
        return found

    def describe(self) -> dict[str, Any]:
        """As plain JSON values."""
        rows = [{**asdict(row), **self.figures(row)} for row in self.rows]
        return {"machine": self.machine, "peak": self.peak, "rows": rows}


def main(words: Sequence[str] | None = None) -> None:
    asked = arguments(words)
    torch.set_num_threads(asked.threads)
    model = load(asked.model, weights=asked.weights).to(asked.device)
    console = Console(stderr=True)
    rows = [row for block in asked.blocks for row in measured(model, block, asked, console)]
    for name in asked.recipes:
        console.print(f"an atlas, {name}: asking the plan")
        rows.append(atlas(model, name))
    result = Result(machine(model, asked), rows, peak(model.device))
    if asked.json:
        print(json.dumps(result.describe(), indent=2))
    else:
        Console(width=None if Console().is_terminal else 170).print(table(result, asked))


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    parser.add_argument("model", nargs="?", default=MODEL, help="a ViT of timm")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 6, 11])
    parser.add_argument(
        "--batches", nargs="+", default=["1x8", "8x1", *(["64x8"] if gpu else [])], help="units x copies"
    )
    parser.add_argument("--steps", type=int, default=6, help="that count, in every round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="*", choices=[*PEERS, "none"], default=list(PEERS))
    parser.add_argument("--recipes", nargs="*", default=["vitscope", "ghiasi_2022"], help="of an atlas")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(words)


def measured(model: VisionModel, block: int, asked: argparse.Namespace, console: Console) -> list[Row]:
    """The rows of a block."""
    found: list[Row] = []
    for batch in asked.batches:
        units, copies = map(int, batch.split("x"))
        task = Task(model, block, units, copies)
        dreamers = contestants(task, asked.peers)
        console.print(f"block {block}, {units} units x {copies} copies: {asked.rounds} rounds")
        rows = alternated(task, dreamers, steps=asked.steps, rounds=asked.rounds)
        for row in rows:  # it is a long run, and may be ended early
            figure = "" if row.seconds is None else f"{100 * row.seconds / row.units:.2f} s"
            console.print(f"  {row.name}: {figure} {row.remark}")
        found += rows
    return found


def contestants(task: Task, peers: Sequence[str]) -> list[Dreamer]:
    """Everyone that is timed at a task."""
    objectives = [unit(address).bind(task.model) for address in task.addresses]
    tuned = plan_dreams(task.model, objectives, recipe=GHIASI_2022.replace(copies=task.copies)).forms
    forms = [tuned.wide, replace(tuned, products="bfloat16")]
    named = [PEERS[name] for name in peers if name != "none"]
    return [*map(bare, forms), *(ours(each, planned=tuned) for each in forms), AUTHORS, *named]


def alternated(task: Task, dreamers: Sequence[Dreamer], *, steps: int, rounds: int) -> list[Row]:
    """The best round of each. Who fails is left out of later rounds, and the row says why."""
    blank = Row(str(task.block), f"{task.units}x{task.copies}", "", units=task.units)
    found = [replace(blank, name=each.name, kind=each.kind, products=each.products) for each in dreamers]
    failed: set[int] = set()
    for _ in range(rounds):
        for index, dreamer in enumerate(dreamers):
            if index in failed:
                continue
            try:
                seconds, remark = timed(dreamer, task, steps, clock(task.model.device))
            except Exception as error:  # whatever a peer raises is its row
                failed.add(index)
                found[index] = replace(found[index], seconds=None, remark=reason(error))
            else:
                best = min(seconds, found[index].seconds or seconds)
                found[index] = replace(found[index], seconds=best, remark=remark)
    if task.model.device.type != "cuda":
        return found
    counted = flops(task)
    return [replace(row, flops=counted) if row.kind in ("bare", "ours") else row for row in found]


def reason(error: Exception) -> str:
    """Why there is no figure, in a few words."""
    if isinstance(error, ModuleNotFoundError):
        return f"not here ({error}): pip install 'vitscope[bench]'"
    return textwrap.shorten(f"failed: {type(error).__name__}: {error}", 120)


def clock(device: torch.device) -> Callable[[], float]:
    """Processor seconds of this process, or on a GPU seconds once all that was asked of it is done."""

    def waiting() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return waiting if device.type == "cuda" else time.process_time


def flops(task: Task) -> int:
    """Of one bare step, counted; attention as products, whose backward computes nothing twice."""
    counter = FlopCounterMode(display=False)
    with counter:
        bare(Forms(attention="products")).run(task, 1, lambda: None)
    return counter.get_total_flops()


def peak(device: torch.device) -> dict[str, float]:
    """Flops a second of a large matrix product, the best of ten; of a GPU only."""
    if device.type != "cuda":
        return {}
    found, now = {}, clock(device)
    for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        one, other = torch.randn(2, SIDE, SIDE, device=device).to(kind)
        spent = []
        for _ in range(10):
            begun = now()
            torch.mm(one, other)
            spent.append(now() - begun)
        found[name] = 2 * SIDE**3 / min(spent)
    return found


def atlas(model: VisionModel, name: str) -> Row:
    """What the plan expects of a dream of every FFN unit of a model."""
    try:
        recipe = recipe_named(name)
        seconds, count = 0.0, 0
        for site in model.sites("blocks.*.ffn"):
            some = [unit(f"{site.name}:{number}").bind(model) for number in range(min(32, site.units))]
            seconds += site.units * plan_dreams(model, some, recipe=recipe).seconds
            count += site.units
    except Exception as error:  # an unknown recipe, or a plan that fails, is a row too
        return Row("all", "", f"atlas, {name}", kind="atlas", remark=reason(error))
    hourly, days = 3600 * count / seconds, seconds / 86400
    remark = f"{count:,} FFN units: {hourly:,.1f} an hour, {days:,.2f} days, as the plan expects"
    return Row("all", "", f"atlas, {name}", kind="atlas", units=count, seconds=seconds, remark=remark)


def machine(model: VisionModel, asked: argparse.Namespace) -> dict[str, Any]:
    """Where it was measured."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(": ")[2] for line in lines if "model name" in line]
    on_gpu = model.device.type == "cuda"
    return {
        "model": model.name,
        "device": torch.cuda.get_device_name(model.device) if on_gpu else "cpu",
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": asked.threads,
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def table(result: Result, asked: argparse.Namespace) -> Table:
    """Everything, for people."""
    facts = result.machine
    where = "" if facts["device"] == "cpu" else f"{facts['device']}, "
    where += f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads, load {facts['load']}"
    drawn = Table(title=f"{facts['model']} on {where}, torch {facts['torch']}", title_justify="left")
    drawn.add_column("block", justify="right")
    drawn.add_column("units x copies")
    drawn.add_column("who")
    heads = ["s a unit, 100 steps", "over bare", "over float32", "over bfloat16"]
    for head in [*heads, "of peak"] if result.peak else heads:
        drawn.add_column(head, justify="right")
    drawn.add_column("remark", overflow="fold")
    for index, row in enumerate(result.rows):
        following = result.rows[index + 1] if index + 1 < len(result.rows) else row
        ends = (row.block, row.batch) != (following.block, following.batch)
        drawn.add_row(*cells(result, row), end_section=ends)
    kind = "processor seconds" if facts["device"] == "cpu" else "seconds"
    drawn.caption = (
        f"{kind}, best of {asked.rounds} rounds of {asked.steps} steps; over bare: by the bare pass in the "
        "same forms; over float32, bfloat16: by vitscope's; after a slash: the goal"
    )
    if asked.recipes:
        drawn.caption += "\natlases: of the passes alone, in seconds by the clock at this load"
    if not result.peak:
        drawn.caption += "\nno GPU: the share of its peak is skipped"
    return drawn


def cells(result: Result, row: Row) -> list[str]:
    """A row as text, with the goals it has."""
    figures = result.figures(row)
    ours_too = row.batch == "1x8" and result.machine["model"].startswith(MODEL)
    on_core = ours_too and result.machine["device"] == "cpu"
    goals: dict[str, tuple[float | None, bool]] = {"over bare": (OVER_BARE, True)}
    if row.kind == "ours" and on_core:
        goals["seconds"] = SECONDS.get((row.block, row.products)), True
    if row.kind == "authors" and on_core:
        goals |= {f"over {to}": (FASTER.get((row.block, to)), False) for to in ("float32", "bfloat16")}
    shown = ["seconds", "over bare", "over float32", "over bfloat16"]
    text = [_shown(figures.get(name), *goals.get(name, (None, True))) for name in shown]
    if result.peak:
        text.append(f"{figures['of peak']:.0%}" if "of peak" in figures else "")
    return [row.block, row.batch, row.name, *text, row.remark]


def _shown(figure: float | None, goal: float | None, at_most: bool) -> str:
    if figure is None:
        return ""
    if goal is None:
        return f"{figure:.2f}"
    met = figure <= goal if at_most else figure >= goal
    return f"[{'green' if met else 'red'}]{figure:.2f} / {goal:g}[/]"


if __name__ == "__main__":
    main()
