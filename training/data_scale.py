"""How many images do the blocks and heads of a bundled model need? After Raghu et al. 2021, Figures 4 and 12.

    python training/data_scale.py --data ../shared/data/tiny-imagenet --out runs/data_scale --steps 3744

The model is trained on 3, 10, 30 and 100 % of the images of each class, with as many steps each and labels
alone, without a teacher, which would bring in what it knows of other images. A further model on all images,
from another seed, is the reference: CKA of each block with the same block of the reference is told for every
share, and that of 100 % is the most that can be expected. How far the heads of every block look is told
beside, as the paper says that local heads in lower blocks take many images to learn.

Run it again to go on: every epoch leaves a checkpoint, and what is finished is not trained again.
`data_scale.json` and two figures are written at the end.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from dataset import Split, console, reduced
from export import export
from fitting import Recipe, Run
from measuring import (
    THREADS,
    Cache,
    Data,
    Gram,
    Images,
    Out,
    Threads,
    begun,
    distances_of,
    grams_of,
    write_result,
)
from safetensors import safe_open
from train import described, fit, recipe_of

from vitscope.house import png
from vitscope.meters.grams import Grams
from vitscope.models import load
from vitscope.plots import Line, lines

SHARES = [0.03, 0.1, 0.3, 1.0]


def recipe_for(name: str, *, share: float, steps: int, images: int, seed: int) -> Recipe:
    """The model's recipe with about so many steps: warm-up and last epochs keep their part of the whole."""
    usual = recipe_of(name, epochs=None, whole=None, seed=seed, share=share)
    an_epoch = images // min(usual.batch, images)
    epochs = max(1, round(steps / an_epoch))
    warmup, whole = (round(part * epochs / usual.epochs) for part in (usual.warmup, usual.whole))
    return replace(usual, epochs=epochs, warmup=max(1, warmup), whole=whole, distill=0.0)


def trained(name: str, recipe: Recipe, train: Split, val: Split, *, out: Path, device: torch.device) -> Path:
    """The weights of a run, trained if they are not there yet."""
    folder = out / f"share_{recipe.share:g}_seed_{recipe.seed}"
    weights = folder / f"{name}.safetensors"
    run = Run(name, recipe, device=device)
    fit(run, train, out=folder, until=recipe.epochs)
    if not weights.exists() or json.loads(facts_of(weights)["recipe"])["epochs"] != recipe.epochs:
        export(run, val, out=folder, data=described(train), teacher=None)
    return weights


def facts_of(weights: Path) -> dict[str, str]:
    """What an exported file says of itself."""
    with safe_open(weights, framework="pt") as file:
        return dict(file.metadata())


@dataclass(frozen=True)
class Seen:
    """What was measured of a trained model: the Gram matrices of its blocks, how far heads look, and more."""

    weights: Path
    grams: Grams
    distances: list[list[float]]

    def described(self, reference: Seen) -> dict[str, Any]:
        """Accuracy, heads, and CKA of the blocks with those of the reference, as JSON."""
        facts, similar = facts_of(self.weights), self.grams.cka(reference.grams)
        return {
            "top1": float(facts["top1"]),
            "top5": float(facts["top5"]),
            "data": facts["data"],
            "cka": similar.value.diagonal().tolist(),
            "cka_error": [
                error if math.isfinite(error) else None for error in similar.error.diagonal().tolist()
            ],
            "distance": self.distances,
        }


def draw(facts: dict[str, Any]) -> dict[str, bytes]:
    """By block, a line for each share: CKA with the reference, and how far heads look."""
    runs = {f"{run['share']:.0%} of the images, top-1 {run['top1']:.1%}": run for run in facts["runs"]}
    similar = [Line(label, range(len(run["cka"])), run["cka"]) for label, run in runs.items()]
    panel = f"{facts['model']} against another one trained on all"
    figures = {"data_scale": lines({panel: similar}, x_label="block", y_label="CKA", y_range=(None, 1))}
    if facts["reference"]["distance"]:
        heads = [_heads(label, run["distance"]) for label, run in runs.items()]
        figures["data_scale_heads"] = lines(
            {f"{facts['model']}: mean of the heads, nearest and farthest": heads},
            x_label="block",
            y_label="mean attention distance (px)",
        )
    return {name: png(figure) for name, figure in figures.items()}


def _heads(label: str, blocks: list[list[float]]) -> Line:
    low, mean, high = ([of(block) for block in blocks] for of in (min, fmean, max))
    return Line(label, range(len(blocks)), mean, low, high)


def main(
    data: Data,
    out: Out,
    name: Annotated[str, typer.Option(help="vit_mini or cnn_mini")] = "vit_mini",
    steps: Annotated[int, typer.Option(help="of each run, whatever its share", min=1)] = 3744,
    shares: Annotated[list[float] | None, typer.Option("--share", help="[3, 10, 30 and 100 %]")] = None,
    images: Images = 2048,
    gram: Gram = 128,
    cache: Cache = None,
    seed: int = 0,
    threads: Threads = THREADS,
) -> None:
    """Train on every share, measure, and write the result."""
    train, val, device = begun(data, cache or out.parent / "cache", threads=threads)

    def finished(share: float, seed: int) -> tuple[Recipe, Seen]:
        split = reduced(train, share=share)
        recipe = recipe_for(name, share=share, steps=steps, images=len(split.images), seed=seed)
        weights = trained(name, recipe, split, val, out=out, device=device)
        model = load(f"vitscope:{name}", weights=str(weights))
        grams = grams_of(model, val, images=images, gram=gram)
        return recipe, Seen(weights, grams, distances_of(model, val, images=images))

    whole, reference = finished(1.0, seed + 1)
    runs: list[dict[str, Any]] = []
    for share in shares or SHARES:
        recipe, seen = finished(share, seed)
        run = {"share": share, "recipe": asdict(recipe), **seen.described(reference)}
        console.log(f"{share:.0%}: top-1 {run['top1']:.2%}, CKA {[round(value, 3) for value in run['cka']]}")
        runs.append(run)
    facts = {"model": name, "steps": steps, "images": images, "gram": gram}
    facts |= {"sites": list(reference.grams.sites), "runs": runs}
    facts["reference"] = {"recipe": asdict(whole), **reference.described(reference)}
    write_result(out / "data_scale.json", facts, figures=draw(facts))


if __name__ == "__main__":
    typer.run(main)
