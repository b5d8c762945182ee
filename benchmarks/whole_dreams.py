"""What whole dreams cost by recipe and site: every step of each, on one thread, judgement left out.

    python benchmarks/whole_dreams.py
    python benchmarks/whole_dreams.py timm:vit_tiny_patch16_224 --weights vit_tiny.safetensors \\
        --without blocks.0.ffn

Ours in the forms that its plan measures, against `ghiasi_2022` in float32 as the model is written, through
the blocks up to the site alone: the authors' code runs all blocks, see `dreams.py`. A batch of units climbs
together, as in an atlas. The first steps are timed, of ours those in which it compares bfloat16 with float32
too, and the median of the last of them stands for all others.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from contextlib import suppress
from itertools import pairwise

import torch
from rich.console import Console
from rich.table import Table

from vitscope.dream import recipe_named
from vitscope.dream.ascent import Ascent, Glimpse
from vitscope.dream.objectives import unit
from vitscope.dream.plan import plan_dreams
from vitscope.lean import AS_WRITTEN
from vitscope.models import load
from vitscope.models.vision_model import Site, VisionModel

OURS, THEIRS = "vitscope", "ghiasi_2022"
FIRST = {OURS: 24, THEIRS: 2}
"""Steps of each that are timed one by one: ours in which it finds its forms, and theirs to warm up."""
THEN = {OURS: 16, THEIRS: 6}
"""Further steps, whose median stands for all others."""
GOAL = 10.0


class Enough(Exception):
    """Ends an ascent."""


def main() -> None:
    asked, imported = arguments(), memory()
    torch.set_num_threads(asked.threads)
    model = load(asked.model, weights=asked.weights)
    sites = [site for site in model.sites(asked.sites) if site.name not in asked.without]
    table = Table("site", f"{OURS}, s a unit", f"{THEIRS} in float32", "ratio", title=model.name)
    spent = [0.0, 0.0]
    for site in sites:
        each = measured(model, site, asked.units)
        spent = [sum(pair) for pair in zip(spent, each, strict=True)]
        table.add_row(site.name, *(f"{seconds:.1f}" for seconds in each), f"{each[1] / each[0]:.2f}")
        Console(stderr=True).print(f"{site.name}: {each[1] / each[0]:.2f}", highlight=False)
    table.caption = f"{asked.units} units together; peak memory {memory() - imported:.2f} GiB above import"
    table.add_section()
    table.add_row("all", *(f"{seconds:.1f}" for seconds in spent), f"{spent[1] / spent[0]:.2f} / {GOAL:g}")
    Console().print(table)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="timm:vit_tiny_patch16_224")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--sites", default="blocks.*.ffn")
    parser.add_argument("--without", action="append", default=[], help="a site to leave out")
    parser.add_argument("--units", type=int, default=4, help="that climb together")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def memory() -> float:
    """The most this process has held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def measured(model: VisionModel, site: Site, units: int) -> tuple[float, float]:
    """Processor seconds of a whole dream of each recipe."""
    ours, theirs = recipe_named(OURS), recipe_named(THEIRS)
    objectives = [unit(f"{site.name}:{number}").bind(model) for number in range(units)]
    plan = plan_dreams(model, objectives, recipe=ours)
    climbs = (
        Ascent(model, objectives, ours, 0, plan.forms, plan.images),
        Ascent(model, objectives, theirs, 0, AS_WRITTEN, plan.images),
    )
    mine, other = (seconds(climb) / units for climb in climbs)
    return mine, other


def seconds(climb: Ascent) -> float:
    """Of a whole ascent, from its first steps."""
    name, times = climb.recipe.name, [time.process_time()]
    first, timed = FIRST[name], FIRST[name] + THEN[name]

    def tick(_: Glimpse) -> None:
        times.append(time.process_time())
        if len(times) > timed:
            raise Enough

    with suppress(Enough):
        climb.run(tick)
    each = statistics.median(later - sooner for sooner, later in pairwise(times[first:]))
    return times[first] - times[0] + each * (climb.recipe.steps - first)


if __name__ == "__main__":
    main()
