"""Train a bundled model on Tiny-ImageNet with a distillation teacher, on one machine, with a GPU or without.

    python training/train.py vit_mini --data ../shared/data/tiny-imagenet --out runs/vit_mini \\
        --teacher ../shared/data/weights/vit_tiny_patch16_224.safetensors

The archives are decoded once and the teacher sees each training image once; both are cached beside `--out`.
A run that finds its own checkpoint continues from it, exactly: every epoch draws from its own seed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from dataset import Split, add_teacher, console, read_columns, read_split, reduced
from export import export
from fitting import RECIPES, Recipe, Run
from timm.layers.config import set_fused_attn

from vitscope.models import bundled


def fit(run: Run, split: Split, *, out: Path, until: int) -> None:
    """Continue from the checkpoint in `out`, if any, and write one after each epoch up to `until`."""
    checkpoint = out / f"{run.name}.checkpoint.pt"
    if checkpoint.exists():
        run.load(checkpoint)
        console.log(f"{run.name}: continuing after epoch {run.epoch}")
    while run.epoch < until:
        run.train_epoch(split)
        run.save(checkpoint)


def recipe_of(name: str, *, epochs: int | None, whole: int | None, seed: int, share: float = 1.0) -> Recipe:
    """The recipe of a model with what the caller changed."""
    if name not in RECIPES:
        raise typer.BadParameter(f"no recipe for {name!r}; there are {', '.join(RECIPES)}")
    recipe = replace(RECIPES[name], seed=seed, share=share)
    return replace(recipe, epochs=epochs or recipe.epochs, whole=recipe.whole if whole is None else whole)


def described(train: Split) -> str:
    """The training data in words, for the card."""
    fewest, most = (int(value) for value in train.labels.bincount().aminmax())
    each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"{len(train.images):,} training images of Tiny-ImageNet, {each} of each class"


Weights = typer.Option(exists=True, help="the teacher: weights named <timm model>.safetensors")
Classes = typer.Option(exists=True, help="CSV with its index and wnid [../imagenet1k-sample/classes.csv]")


def main(
    name: Annotated[str, typer.Argument(help="vit_mini or cnn_mini")],
    data: Annotated[Path, typer.Option(help="folder with train.tar.gz and val.tar.gz")],
    out: Annotated[Path, typer.Option(help="folder for the checkpoint, the weights and the card")],
    teacher: Annotated[Path | None, Weights] = None,
    teacher_classes: Annotated[Path | None, Classes] = None,
    cache: Annotated[Path | None, typer.Option(help="decoded data [cache beside --out]")] = None,
    epochs: Annotated[int | None, typer.Option(help="[the recipe's]", min=1)] = None,
    whole: Annotated[int | None, typer.Option(help="last epochs that see all patches [the recipe's]")] = None,
    stop_after: Annotated[int | None, typer.Option(help="epoch after which to pause")] = None,
    share: Annotated[float, typer.Option(help="share of the training images of each class")] = 1.0,
    seed: int = 0,
    threads: Annotated[int, typer.Option(help="CPU threads", min=1)] = os.cpu_count() or 1,
) -> None:
    """Train a bundled model, continuing an interrupted run, and export it with its card."""
    torch.set_num_threads(threads)
    set_fused_attn(torch.cuda.is_available())  # at 65 tokens the plain form is faster on a CPU
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = recipe_of(name, epochs=epochs, whole=whole, seed=seed, share=share)
    cache, wnids = cache or out.parent / "cache", [label.wnid for label in bundled.CLASSES]
    train = read_split(data / "train.tar.gz", wnids=wnids, cache=cache)
    if teacher is not None:
        table = teacher_classes or data.parent / "imagenet1k-sample" / "classes.csv"
        columns = read_columns(table, wnids=wnids)
        train = add_teacher(train, teacher, columns=columns, cache=cache, device=device)
    train = reduced(train, share=share)
    run = Run(name, recipe, device=device)
    fit(run, train, out=out, until=min(stop_after or recipe.epochs, recipe.epochs))
    if run.epoch == recipe.epochs:
        val = read_split(data / "val.tar.gz", wnids=wnids, cache=cache)
        export(run, val, out=out, data=described(train), teacher=teacher.stem if teacher else None)


if __name__ == "__main__":
    typer.run(main)
