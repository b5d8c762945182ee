"""How well recipes do: do their dreams excite units more than natural images, and at what cost?

    python benchmarks/recipes.py --recipe vitscope --recipe ghiasi_2022
    python benchmarks/recipes.py timm:vit_tiny_patch16_224 --weights vit_tiny.safetensors \\
        --source folder:photos --units 96 --recipe vitscope --out vit_tiny.jsonl

Units are drawn at random from the sites, the same for every recipe. A dream is compared with the image that
excites its unit most, by the mean over places: as it is, and under 32 augmentations that are the same for all
recipes and images (those of Ghiasi et al. 2022, half-way). Scores are in float32. Every dream is a line of
the output file, and a line that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vitscope.address import Address
from vitscope.data import images
from vitscope.data.source import ImageSource
from vitscope.data.stream import stream
from vitscope.draws import generator
from vitscope.dream import recipe_named
from vitscope.dream.augment import Moment, augment, whole
from vitscope.dream.judge import FRESH, FRESH_COPIES
from vitscope.dream.natural import Natural, beside_natural
from vitscope.dream.objectives import unit
from vitscope.dream.optimize import optimize
from vitscope.dream.plan import Plan, plan_dreams
from vitscope.dream.recipe import Recipe
from vitscope.dream.recipes import GHIASI_2022
from vitscope.dream.result import Dream
from vitscope.dream.scoring import scoring
from vitscope.dream.second import with_second_start
from vitscope.lean import AS_WRITTEN, Lean
from vitscope.meters.topk import TopK
from vitscope.models import load
from vitscope.models.vision_model import VisionModel
from vitscope.scan import scan

Row = dict[str, Any]


def main() -> None:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    model, source = load(asked.model, weights=asked.weights), images(asked.source)
    addresses = drawn(model, asked.sites, asked.without, asked.units)
    done = rows_of(asked.out)
    console = Console(stderr=True)
    if missing := [address for address in addresses if ("natural", address) not in done]:
        for row in natural(model, source, asked.sites, missing):
            keep(asked.out, done, row)
    known = natural_images(model, source, [done["natural", address] for address in addresses])
    for name in asked.recipe:
        plan = Plan(AS_WRITTEN, 16, 32, 1.0) if asked.float32 else None
        label = f"{name}{' float32' if asked.float32 else ''}"
        todo = [address for address in addresses if (label, address) not in done]
        for count, row in enumerate(dreamt(model, name, label, todo, plan, asked.batch, known), start=1):
            keep(asked.out, done, row)
            console.print(f"{label}: {count} of {len(todo)}", highlight=False)
    Console().print(table(list(done.values()), set(addresses), title=f"{asked.model}, {asked.source}"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="vitscope:vit_mini")
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--source", default="demo:")
    parser.add_argument("--sites", default="blocks.*.ffn")
    parser.add_argument("--without", action="append", default=[], help="a site to leave out")
    parser.add_argument("--units", type=int, default=24, help="how many, spread evenly over the sites")
    parser.add_argument("--recipe", action="append", default=[], help="may be given several times")
    parser.add_argument("--float32", action="store_true", help="passes as the model is written")
    parser.add_argument("--batch", type=int, default=4, help="units dreamt of together")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("recipes.jsonl"))
    return parser.parse_args()


def drawn(model: VisionModel, pattern: str, without: Sequence[str], count: int) -> list[str]:
    """Random units, as many of every site as of another, give or take one; always the same."""
    sites = [site for site in model.sites(pattern) if site.name not in without]
    source = np.random.default_rng(0)
    orders = [source.permutation(site.units) for site in sites]
    shares = [count // len(sites) + (index < count % len(sites)) for index in range(len(sites))]
    return [
        f"{site.name}:{unit}"
        for site, order, share in zip(sites, orders, shares, strict=True)
        for unit in sorted(order[:share].tolist())
    ]


def natural(model: VisionModel, source: ImageSource, pattern: str, addresses: Sequence[str]) -> Iterator[Row]:
    """For every unit the natural image that excites it most."""
    found = scan(model, source, [TopK(pattern, k=1, rank="mean")])["topk_mean"]
    units = {address: Address.parse(address) for address in addresses}
    best = {address: found[each.site].of(each.unit) for address, each in units.items()}
    wanted = {exemplars[0].image for exemplars in best.values() if exemplars}
    pixels = pictures(model, source, wanted)
    for address, exemplars in best.items():
        if exemplars:
            image = exemplars[0].image
            clean, robust = scores(model, address, pixels[image])
            facts = {"recipe": "natural", "address": address, "image": image}
            yield {**facts, "clean": clean, "robust": robust, "seconds": 0.0}


def natural_images(model: VisionModel, source: ImageSource, rows: Sequence[Row]) -> dict[str, Natural]:
    """What second starts need to know of every unit: its best image."""
    pixels = pictures(model, source, {row["image"] for row in rows})
    nobody = torch.empty(0, 3, *model.preprocessing.size)
    return {
        row["address"]: Natural([row["clean"]], len(source), pixels[row["image"]][None], nobody)
        for row in rows
    }


def pictures(model: VisionModel, source: ImageSource, wanted: set[str]) -> dict[str, Tensor]:
    """The pixels of some images, as the model is shown them."""
    return {
        image: pixels
        for shard in source.shards()
        for batch in stream(source, shard, model.preprocessing, batch_size=8, on_skip=lambda _: None)
        for image, pixels in zip(batch.ids, batch.pixels, strict=True)
        if image in wanted
    }


def dreamt(
    model: VisionModel,
    name: str,
    label: str,
    addresses: Sequence[str],
    plan: Plan | None,
    batch: int,
    known: dict[str, Natural],
) -> Iterator[Row]:
    """A dream of every unit, with a second start where the recipe has that and the unit needs it. Processor
    seconds are those of dreaming, shared by the units of a batch."""
    recipe = recipe_named(name)
    by_site: dict[str, list[str]] = {}
    for address in addresses:
        by_site.setdefault(Address.parse(address).site, []).append(address)
    for group in by_site.values():
        objectives = [unit(address) for address in group]
        used = plan or plan_dreams(model, [objective.bind(model) for objective in objectives], recipe=recipe)
        for start in range(0, len(group), batch):
            begun = time.process_time()
            first = optimize(model, objectives[start : start + batch], recipe=recipe, plan=used)
            made = [best_start(model, dream, known[dream.address], recipe, used) for dream in first]
            seconds = (time.process_time() - begun) / len(made)
            for dream in made:
                clean, robust = scores(
                    model, dream.address, whole(dream.pixels[None], model.preprocessing.size)[0]
                )
                told = ("status", "narrow_from", "second_start")
                facts = {name: dream.trust[name] for name in told if name in dream.trust}
                yield {
                    "recipe": label,
                    "address": dream.address,
                    "clean": clean,
                    "robust": robust,
                    "seconds": seconds,
                    **facts,
                }


def best_start(model: VisionModel, dream: Dream, natural: Natural, recipe: Recipe, plan: Plan) -> Dream:
    """As an atlas does it."""
    if not recipe.second_start:
        return dream
    beside = beside_natural(model, dream, natural, recipe=recipe)
    return with_second_start(model, beside, natural, recipe=recipe, plan=plan)


def scores(model: VisionModel, address: str, pixels: Float[Tensor, "rgb row column"]) -> tuple[float, float]:
    """Of a picture as it is, and its mean under the common augmentations."""
    moment = Moment(200, 400, FRESH_COPIES, model.preprocessing.size)
    with scoring(model, [unit(address).bind(model)]) as score, torch.no_grad():
        sources = [generator(0, address, step=FRESH)]
        views = augment(pixels[None], GHIASI_2022.augmentations, sources=sources, moment=moment).pixels[0]
        return score(pixels[None], [0], Lean()).item(), score(views, [0], Lean()).mean().item()


def rows_of(path: Path) -> dict[tuple[str, str], Row]:
    """The lines of a file, by recipe and address."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(row["recipe"], row["address"]): row for row in map(json.loads, lines)}


def keep(path: Path, done: dict[tuple[str, str], Row], row: Row) -> None:
    """Remember a line and write it down."""
    done[row["recipe"], row["address"]] = row
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def table(rows: Sequence[Row], addresses: set[str], *, title: str) -> Table:
    """One line a recipe. "both" counts units that beat their natural image as it is and augmented."""
    naturals = {row["address"]: row for row in rows if row["recipe"] == "natural"}
    columns = (
        "recipe",
        "units",
        "clean",
        "robust",
        "beat clean",
        "beat robust",
        "both",
        "dead",
        "CPU s a unit",
    )
    result = Table(*columns, title=title)
    for name in dict.fromkeys(row["recipe"] for row in rows):
        known = addresses & set(naturals)
        some = [row for row in rows if row["recipe"] == name and row["address"] in known]
        if some:
            result.add_row(name, *summary(some, naturals))
    return result


def summary(rows: Sequence[Row], naturals: dict[str, Row]) -> list[str]:
    """The cells of one recipe."""
    beat = {
        what: [row[what] > naturals[row["address"]][what] for row in rows] for what in ("clean", "robust")
    }
    both = [one and other for one, other in zip(beat["clean"], beat["robust"], strict=True)]
    return [
        str(len(rows)),
        *(f"{statistics.median([row[what] for row in rows]):.3f}" for what in ("clean", "robust")),
        *(f"{100 * statistics.mean(each):.1f} %" for each in (*beat.values(), both)),
        str(sum(row["clean"] < 0.05 for row in rows)),
        f"{statistics.mean(row['seconds'] for row in rows):.2f}",
    ]


if __name__ == "__main__":
    main()
