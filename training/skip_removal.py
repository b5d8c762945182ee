"""What becomes of a model that is trained without the skips of a block? After Raghu et al. 2021, Figure 8.

    python training/skip_removal.py --data ../shared/data/tiny-imagenet --out runs/skip_removal --block 3

The bundled `vit_mini` is trained with all its skips, and then once for every block asked for with both skips
of that block removed, z <- f(z), by the intervention that the study `skip_removal` uses at test time. Told
are the accuracy of each, what taking the skips from the plain model costs without training, and the CKA of
all blocks with one another. All models see all patches, as the intervention needs, and labels alone.

Run it again to go on: every epoch leaves a checkpoint. `skip_removal.json` and `.png` are written at the end.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from dataset import Split, console, reduced
from export import evaluate
from fitting import Recipe, Run
from measuring import (
    PREPROCESSING,
    THREADS,
    Cache,
    Data,
    Gram,
    Images,
    Out,
    Threads,
    begun,
    grams_of,
    write_result,
)
from train import fit, recipe_of

from vitscope.house import png
from vitscope.interventions.units import remove_skip
from vitscope.models import bundled, load
from vitscope.models.vision_model import VisionModel
from vitscope.plots import heat_maps

NAME = "vit_mini"


def without(model: VisionModel, block: int | None) -> AbstractContextManager[None]:
    """The model without both skips of a block; as it is for None."""
    return nullcontext() if block is None else remove_skip(model, block=block)


def trained(
    recipe: Recipe, train: Split, *, block: int | None, out: Path, device: torch.device
) -> tuple[Run, VisionModel]:
    """A run without the skips of a block, continued to its end, and its model with the sites that has."""
    run = Run(NAME, recipe, device=device)
    sample = (bundled.INPUT.size,) * 2
    model = load(run.model, sample=sample, preprocessing=PREPROCESSING, device=device.type)
    with without(model, block):
        fit(run, train, out=out / ("plain" if block is None else f"without_{block}"), until=recipe.epochs)
    return run, model


def measured(model: VisionModel, val: Split, *, block: int | None, images: int, gram: int) -> dict[str, Any]:
    """Accuracy and CKA of the blocks, without the skips of a block."""
    with without(model, block):
        top1, top5 = evaluate(model.module, val, device=model.device)
        similar = grams_of(model, val, images=images, gram=gram).cka().value
    return {"top1": top1, "top5": top5, "cka": similar.tolist()}


def parted(similar: list[list[float]], block: int) -> dict[str, float]:
    """Mean CKA of the blocks before one with those from it on, and within each of these two."""
    after = np.arange(len(similar)) >= block
    across = np.not_equal.outer(after, after)
    within = ~across & ~np.eye(len(after), dtype=bool)
    values = np.array(similar)
    return {
        name: float(values[at].mean()) for name, at in (("across", across), ("within", within)) if at.any()
    }


def draw(runs: list[dict[str, Any]]) -> bytes:
    """CKA of the blocks of every model."""
    maps = {
        ("all skips" if run["removed"] is None else f"trained without those of block {run['removed']}")
        + f"\ntop-1 {run['top1']:.1%}": np.clip(run["cka"], 0, 1)
        for run in runs
    }
    figure = heat_maps(
        maps, x_label="block", y_label="block", value_label="CKA", value_range=(0, 1), origin="lower"
    )
    return png(figure)


def main(
    data: Data,
    out: Out,
    blocks: Annotated[list[int] | None, typer.Option("--block", help="whose skips are removed [3]")] = None,
    epochs: Annotated[int | None, typer.Option(help="[the recipe's]", min=1)] = None,
    share: Annotated[float, typer.Option(help="share of the training images of each class")] = 1.0,
    images: Images = 2048,
    gram: Gram = 128,
    cache: Cache = None,
    seed: int = 0,
    threads: Threads = THREADS,
) -> None:
    """Train with all skips and without those of each block, measure, and write the result."""
    train, val, device = begun(data, cache or out.parent / "cache", threads=threads)
    train = reduced(train, share=share)
    recipe = recipe_of(NAME, epochs=epochs, whole=0, seed=seed, share=share)
    recipe = replace(recipe, drop_patches=0.0, distill=0.0)
    runs: list[dict[str, Any]] = []
    _, plain = trained(recipe, train, block=None, out=out, device=device)
    for block in (None, *(blocks or [3])):
        model = plain if block is None else trained(recipe, train, block=block, out=out, device=device)[1]
        found = {"removed": block, **measured(model, val, block=block, images=images, gram=gram)}
        if block is not None:
            untrained = measured(plain, val, block=block, images=images, gram=gram)
            found |= parted(found["cka"], block) | {"untrained_top1": untrained["top1"]}
            found |= {f"plain_{name}": value for name, value in parted(runs[0]["cka"], block).items()}
            found["lost_top1"] = 100 * (runs[0]["top1"] - found["top1"])
        console.log({name: value for name, value in found.items() if name != "cka"})
        runs.append(found)
    facts = {"model": NAME, "recipe": asdict(recipe), "images": images, "gram": gram, "runs": runs}
    write_result(out / "skip_removal.json", facts, figures={"skip_removal": draw(runs)})


if __name__ == "__main__":
    typer.run(main)
