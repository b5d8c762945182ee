"""What meters cost, those of an atlas or attention statistics: processor time over the bare forward pass.

Decoding is left out.

    python benchmarks/scan.py
    python benchmarks/scan.py timm:vit_tiny_patch16_224 --weights vit_tiny.safetensors --source folder:photos
    python benchmarks/scan.py --meters attention --images 64

For every batch the bare pass and the scan run one after the other, so that both meet the same load.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import time
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.table import Table

from vitscope.data import images
from vitscope.data.source import SHARD_SIZE, ImageBatch, Shard
from vitscope.data.stream import stream
from vitscope.meters.attention_distance import AttentionDistance
from vitscope.meters.meter import Meter
from vitscope.meters.moments import Moments
from vitscope.meters.topk import TopK
from vitscope.models import load
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE
from vitscope.passes import read_batches

LIMITS = {"atlas": 1.15, "attention": 1.25}
"""The budgets: what a scan with these meters may cost, as a multiple of the bare forward pass."""
SITES = {"atlas": "blocks.*.ffn", "attention": "blocks.*.attn.pattern"}
"""What they read unless `--sites` says otherwise."""


def main() -> None:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    model = load(asked.model, weights=asked.weights)
    batches = decoded(model, asked)
    sites = asked.sites or SITES[asked.meters]
    bare, scanned = measure(model, batches, meters(asked.meters, sites))
    table = Table("", "bare forward", "scan", "ratio", title=f"{asked.model}, {sites}, {machine(asked)}")
    size = asked.batch_size
    for name, figure in (("median of a batch", statistics.median), ("whole shard", sum)):
        here, there = figure(bare), figure(scanned)
        table.add_row(name, f"{here:.3f} s", f"{there:.3f} s", f"{there / here:.3f}")
    count = sum(map(len, batches))
    budget = f"the budget is {LIMITS[asked.meters]}"
    table.caption = f"{count} images in batches of {size}, processor seconds; {budget}"
    Console().print(table)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="timm:vit_tiny_patch16_224")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--source", help="images to read; noise without it")
    parser.add_argument("--meters", default="atlas", choices=LIMITS)
    parser.add_argument("--sites", help="[those the meters are for]")
    parser.add_argument("--images", type=int, default=SHARD_SIZE)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def decoded(model: VisionModel, asked: argparse.Namespace) -> list[ImageBatch]:
    size, count = asked.batch_size, asked.images
    if asked.source:
        source = images(asked.source)
        shard = Shard("benchmark", 0, min(count, len(source)))
        return list(stream(source, shard, model.preprocessing, batch_size=size, on_skip=lambda _: None))
    rows, columns = model.preprocessing.size
    names = [f"{index * 0x9E3779B97F4A7C15 % 2**128:032x}" for index in range(count)]
    return [
        ImageBatch(
            ids=tuple(names[start : start + size]),
            paths=tuple(names[start : start + size]),
            pixels=torch.rand(len(names[start : start + size]), 3, rows, columns),
            labels=torch.full((len(names[start : start + size]),), -1),
        )
        for start in range(0, count, size)
    ]


def meters(kind: str, sites: str) -> list[Meter]:
    if kind == "attention":
        return [AttentionDistance(sites)]
    return [TopK(sites), TopK(sites, rank="mean"), Moments(sites)]


def measure(
    model: VisionModel, batches: list[ImageBatch], meters: list[Meter]
) -> tuple[list[float], list[float]]:
    """Processor seconds of each batch, bare and scanned."""
    untouched = copy.deepcopy(model.module).eval()
    bare: list[float] = []
    scanned: list[float] = []

    def alternating() -> Iterator[ImageBatch]:
        for batch in batches:
            start = time.process_time()
            untouched(model.preprocess(batch.pixels))
            between = time.process_time()
            yield batch
            bare.append(between - start)
            scanned.append(time.process_time() - between)

    read_batches(model, alternating(), meters)
    return bare, scanned


def machine(asked: argparse.Namespace) -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, {asked.threads} threads, torch {torch.__version__}"


if __name__ == "__main__":
    main()
