"""What a grid of interventions costs: processor time of m variants over that of m bare forward passes.

Decoding, which happens once, is measured by itself and taken off; that it does happen once shows beside it.

    python benchmarks/variants.py
    python benchmarks/variants.py timm:vit_tiny_patch16_224 --weights FILE.safetensors --source folder:photos

For every few images the decoding, the bare passes and the variants run one after the other, so that all meet
the same load.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import time
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from vitscope.data import images
from vitscope.data.source import ImageBatch, ImageSource, Shard
from vitscope.data.stream import stream
from vitscope.interventions.images import high_pass, low_pass
from vitscope.meters.moments import Moments
from vitscope.models import load
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE
from vitscope.passes import Variant, scan_shard_variants

LIMIT = 1.1
"""The budget: what m variants may cost, decoding taken off, as a multiple of m bare forward passes."""
VARIANTS = tuple(
    Variant(repr(one), images=(one,))
    for one in (
        *(low_pass(radius=radius) for radius in (8, 16, 32)),
        low_pass(radius=16, shape="gaussian"),
        low_pass(radius=16, shape="square"),
        high_pass(radius=16),
    )
)
"""Six filters, as the study of frequencies has them."""


@dataclass(frozen=True)
class Seconds:
    """Processor seconds of one piece of a source."""

    decoding: float
    bare: float
    variants: float

    @property
    def ratio(self) -> float:
        """The variants without their one decoding, over as many bare passes."""
        return (self.variants - self.decoding) / (self.bare * len(VARIANTS))


def main() -> None:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    model = load(asked.model, weights=asked.weights)
    source = images(asked.source, limit=asked.images)
    measured = [
        measure(model, source, shard, asked.batch_size) for shard in source.shards(asked.batch_size * 2)
    ]
    table = Table(
        *("", "decoding once", "bare forward", f"{len(VARIANTS)} variants", "ratio"),
        title=f"{asked.model}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    )
    whole = Seconds(*(sum(getattr(one, name) for one in measured) for name in Seconds.__annotations__))
    middle = statistics.median(one.ratio for one in measured)
    times = (f"{seconds:.2f} s" for seconds in (whole.decoding, whole.bare, whole.variants))
    table.add_row("all images", *times, f"{whole.ratio:.3f}")
    table.add_row("median of a piece", "", "", "", f"{middle:.3f}")
    table.caption = (
        f"{len(source)} images in batches of {asked.batch_size}, processor seconds; the budget is {LIMIT}"
    )
    Console().print(table)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="timm:vit_tiny_patch16_224")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--source", default="demo:")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def measure(model: VisionModel, source: ImageSource, shard: Shard, batch_size: int) -> Seconds:
    """Decode a piece, run the bare model on it, and run all variants over it from the files on."""
    start = time.process_time()
    batches: list[ImageBatch] = list(
        stream(source, shard, model.preprocessing, batch_size=batch_size, on_skip=lambda _: None)
    )
    decoded = time.process_time()
    untouched = copy.deepcopy(model.module).eval()
    ready = time.process_time()
    with torch.no_grad():
        for batch in batches:
            untouched(model.preprocess(batch.pixels))
    done = time.process_time()
    scan_shard_variants(model, source, shard, VARIANTS, [Moments("logits")], batch_size=batch_size)
    return Seconds(decoded - start, done - ready, time.process_time() - done)


if __name__ == "__main__":
    main()
