"""What the experiments on trained models share: options, meters over images in memory, and files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from dataset import Replacing, Split, read_split
from timm.layers.config import set_fused_attn

from vitscope.data.source import ImageBatch
from vitscope.errors import UnknownSite
from vitscope.meters.attention_distance import AttentionDistance
from vitscope.meters.grams import Grams
from vitscope.meters.hsic import CKA
from vitscope.meters.meter import Meter
from vitscope.models.bundled import CLASSES, INPUT
from vitscope.models.vision_model import Preprocessing, VisionModel
from vitscope.passes import read_batches

BLOCKS = ("blocks.*", "stages.*.*")
"""What leaves the blocks of a ViT, and of a CNN."""
BATCH = 64
"""Images a pass."""
PREPROCESSING = Preprocessing((INPUT.size,) * 2, INPUT.resize, INPUT.interpolation, INPUT.mean, INPUT.std)

THREADS = os.cpu_count() or 1
Data = Annotated[Path, typer.Option(help="folder with train.tar.gz and val.tar.gz")]
Out = Annotated[Path, typer.Option(help="folder for checkpoints and the result")]
Images = Annotated[int, typer.Option(help="validation images for CKA", min=4)]
Gram = Annotated[int, typer.Option(help="images in a Gram matrix", min=4)]
Cache = Annotated[Path | None, typer.Option(help="decoded data [cache beside --out]")]
Threads = Annotated[int, typer.Option(help="CPU threads", min=1)]


def begun(data: Path, cache: Path, *, threads: int) -> tuple[Split, Split, torch.device]:
    """The training and validation images, and where to compute, with that number of threads."""
    torch.set_num_threads(threads)
    set_fused_attn(torch.cuda.is_available())  # at 65 tokens the plain form is faster on a CPU
    wnids = [label.wnid for label in CLASSES]
    train, val = (read_split(data / f"{part}.tar.gz", wnids=wnids, cache=cache) for part in ("train", "val"))
    return train, val, torch.device("cuda" if torch.cuda.is_available() else "cpu")


def grams_of(model: VisionModel, split: Split, *, images: int, gram: int) -> Grams:
    """The Gram matrices of all blocks over images drawn from a split, always the same ones."""
    found: Grams = _metered(model, split, CKA(BLOCKS, gram=gram), images=images)
    return found


def distances_of(model: VisionModel, split: Split, *, images: int) -> list[list[float]]:
    """How far heads look, in pixels, of every block with attention, over the images of `grams_of`."""
    try:
        found = _metered(model, split, AttentionDistance(), images=images)
    except UnknownSite:
        return []
    return [block.distance.tolist() for block in found.values()]


def _metered(model: VisionModel, split: Split, meter: Meter, *, images: int) -> Any:
    rows = torch.randperm(len(split.images), generator=torch.Generator().manual_seed(0))[:images]
    return read_batches(model, _batches(split, rows), [meter])[meter.name].result()


def _batches(split: Split, rows: torch.Tensor) -> Iterator[ImageBatch]:
    for part in torch.split(rows, BATCH):
        ids = tuple(f"{row:032x}" for row in part.tolist())
        yield ImageBatch(ids, ids, split.images[part].float() / 255, split.labels[part])


def write_result(path: Path, facts: dict[str, Any], *, figures: Mapping[str, bytes]) -> None:
    """The facts as JSON, and figures beside it, a PNG for each name; each whole or not at all."""
    for name, figure in figures.items():
        with Replacing(path.with_name(f"{name}.png")) as temporary:
            temporary.write_bytes(figure)
    with Replacing(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
