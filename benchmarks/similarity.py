r"""What CKA between all blocks of two models costs, over the two bare forward passes, ours and other tools.

    python benchmarks/similarity.py --weights vit_tiny.safetensors deit_tiny.safetensors \
        resnet18.safetensors --source folder:photos

Everyone has a process of its own, is given the same decoded images and uses Gram matrices of the same size.
Others run the forward pass in batches of that size, because they know no other way; their bare passes do the
same. Memory is the peak of the process above the peak after its bare passes. The error is the largest
difference to the definition in float64, over the first images. `pip install vitscope[bench]` brings the
others.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import io
import json
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from vitscope.data import images
from vitscope.data.source import ImageBatch, Shard
from vitscope.data.stream import stream
from vitscope.meters.hsic import CKA
from vitscope.models import load
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE
from vitscope.passes import read_batches
from vitscope.tap import read

MODELS = ("vit_tiny_patch16_224", "deit_tiny_patch16_224", "resnet18")
PAIRS = {"12 x 12": (0, 1), "12 x 8": (0, 2)}
"""Which of the models are compared: blocks with blocks, and with the residual blocks of a CNN."""
SITES = ("blocks.*", "stages.*.*")
TOOLS = ("vitscope", "pytorch-cka", "torch-cka")
CPU_LIMIT, MEMORY_LIMIT, ERROR_LIMIT = 1.1, 150, 1e-6
"""The budget: processor time over that of the bare passes, MB above them, and the difference to float64."""


def main() -> None:
    asked = arguments()
    if asked.one:
        tool, pair = asked.one
        print(json.dumps(one(tool, PAIRS[pair], asked)))
        return
    title = f"{asked.images} images, Gram matrices of {asked.gram}, {machine(asked)}"
    table = Table("pair", "tool", "batch", "bare s", "tool s", "ratio", "MB above", "error", title=title)
    for pair in asked.pairs:
        for tool in asked.tools:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", tool, pair]
            done = subprocess.run(command, capture_output=True, text=True)
            lines = done.stdout.splitlines() or [json.dumps({"remark": done.stderr.strip()[-300:]})]
            table.add_row(pair, tool, *cells(json.loads(lines[-1])))
    table.caption = f"processor seconds; the budget is {CPU_LIMIT}, {MEMORY_LIMIT} MB and {ERROR_LIMIT}"
    Console(width=120).print(table)


def cells(found: dict[str, Any]) -> list[str]:
    if "remark" in found:
        return ["", "", "", "", "", found["remark"]]
    ratio = found["tool"] / found["bare"]
    times = [f"{found['bare']:.2f}", f"{found['tool']:.2f}", f"{ratio:.3f}"]
    return [str(found["batch"]), *times, f"{found['memory']:.0f}", f"{found['error']:.1e}"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", nargs=len(MODELS), help="files, in the order of " + ", ".join(MODELS))
    parser.add_argument("--source", help="images to read; noise without it")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--gram", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--checked", type=int, default=64, help="images behind the error")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=TOOLS)
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=PAIRS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def one(tool: str, pair: Sequence[int], asked: argparse.Namespace) -> dict[str, Any]:
    """What one tool costs for one pair: processor seconds, MB and the error."""
    torch.set_num_threads(asked.threads)
    if tool != "vitscope" and importlib.util.find_spec(PACKAGES[tool]) is None:
        return {"remark": f"not installed: pip install {tool}"}
    weights = asked.weights or ["random"] * len(MODELS)
    models = [load(f"timm:{MODELS[which]}", weights=weights[which], device="cpu") for which in pair]
    size = asked.batch_size if tool == "vitscope" else asked.gram
    batches = [decoded(model, asked, size) for model in models]
    bare = [copy.deepcopy(model.module).eval() for model in models]
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again, without that of loading
    with torch.no_grad():
        for module, model, own in zip(bare, models, batches, strict=True):
            for batch in own[:2]:
                module(model.preprocess(batch.pixels))
    before = peak()
    run = ours if tool == "vitscope" else others(tool)
    times = run(models, bare, batches, asked)
    return {**times, "batch": size, "memory": peak() - before, "error": error(run, models, asked)}


Runner = Callable[
    [list[VisionModel], list[nn.Module], list[list[ImageBatch]], argparse.Namespace], dict[str, Any]
]


def ours(
    models: list[VisionModel],
    bare: list[nn.Module],
    batches: list[list[ImageBatch]],
    asked: argparse.Namespace,
) -> dict[str, Any]:
    """Bare pass and ours take turns, batch by batch, so that both meet the same load."""
    spent = 0.0
    start = time.process_time()

    def alternating(model: VisionModel, module: nn.Module, own: list[ImageBatch]) -> Iterator[ImageBatch]:
        nonlocal spent
        for batch in own:
            begun = time.process_time()
            module(model.preprocess(batch.pixels))
            spent += time.process_time() - begun
            yield batch

    grams = [
        read_batches(model, alternating(model, module, own), [CKA(SITES, gram=asked.gram)])["cka"].result()
        for model, module, own in zip(models, bare, batches, strict=True)
    ]
    value = grams[0].cka(grams[1]).value
    return {"bare": spent, "tool": time.process_time() - start - spent, "value": value.tolist()}


class Shown(nn.Module):
    """A model with its preprocessing, so that every tool can hand the same pixels to both."""

    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.module, self._preprocess = model.module, model.preprocess

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.module(self._preprocess(pixels))


def others(tool: str) -> Runner:
    def run(
        models: list[VisionModel],
        bare: list[nn.Module],
        batches: list[list[ImageBatch]],
        asked: argparse.Namespace,
    ) -> dict[str, Any]:
        begun = time.process_time()
        with torch.no_grad():
            for module, model, own in zip(bare, models, batches, strict=True):
                for batch in own:
                    module(model.preprocess(batch.pixels))
        between = time.process_time()
        pixels = torch.cat([batch.pixels for batch in batches[0]])
        loader = DataLoader(TensorDataset(pixels), batch_size=asked.gram)
        names = [[f"module.{site.path}" for site in CKA(SITES).sites(model.sites)] for model in models]
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = RUN[tool]([Shown(model) for model in models], names, loader)
        return {
            "bare": between - begun,
            "tool": time.process_time() - between,
            "value": np.array(value).tolist(),
        }

    return run


def pytorch_cka(models: list[nn.Module], names: list[list[str]], loader: Any) -> torch.Tensor:
    from cka import compute_cka

    found: torch.Tensor = compute_cka(
        models[0].eval(), models[1].eval(), loader, layers=names[0], model2_layers=names[1], device="cpu"
    )
    return found


def torch_cka(models: list[nn.Module], names: list[list[str]], loader: Any) -> torch.Tensor:
    from torch_cka import CKA as Theirs

    compared = Theirs(*models, "one", "other", model1_layers=names[0], model2_layers=names[1], device="cpu")
    with torch.no_grad():  # as shipped it keeps the graph, which takes gigabytes
        compared.compare(loader)
    found: torch.Tensor = compared.export()["CKA"]
    return found


PACKAGES = {"pytorch-cka": "cka", "torch-cka": "torch_cka"}
RUN = {"pytorch-cka": pytorch_cka, "torch-cka": torch_cka}


def decoded(model: VisionModel, asked: argparse.Namespace, size: int) -> list[ImageBatch]:
    """The images as a model is shown them; both models of one size see the same ones."""
    if asked.source:
        source = images(asked.source)
        shard = Shard("benchmark", 0, min(asked.images, len(source)))
        return list(stream(source, shard, model.preprocessing, batch_size=size, on_skip=lambda _: None))
    draw, found = torch.Generator().manual_seed(0), []
    pixels = torch.rand(asked.images, 3, *model.preprocessing.size, generator=draw)
    for start in range(0, asked.images, size):
        part = pixels[start : start + size]
        names = tuple(f"{index:032x}" for index in range(start, start + len(part)))
        found.append(ImageBatch(names, names, part, torch.full((len(part),), -1)))
    return found


def error(run: Runner, models: list[VisionModel], asked: argparse.Namespace) -> float:
    """The largest difference to the definition in float64, over one Gram matrix of the first images."""
    few = argparse.Namespace(**{**vars(asked), "images": asked.checked, "gram": asked.checked})
    batches = [decoded(model, few, BATCH_SIZE) for model in models]
    if run is not ours:
        batches[1] = batches[0]  # they hand the same pixels to both
    found = run(models, [copy.deepcopy(model.module) for model in models], batches, few)["value"]
    centred = []
    for model, own in zip(models, batches, strict=True):
        sites = CKA(SITES).sites(model.sites)
        with torch.no_grad():
            parts = [read(model, batch.pixels, sites) for batch in own]
        rows = [torch.cat([part[site.name] for part in parts]).double().flatten(1) for site in sites]
        centred.append([hsic(row @ row.T) for row in rows])
    truth = [[cosine(one, other) for other in centred[1]] for one in centred[0]]
    return float(np.abs(np.array(found) - np.array(truth)).max())


def hsic(gram: torch.Tensor) -> torch.Tensor:
    """U-centred, so that the product of two is their HSIC_1."""
    n = len(gram)
    gram = gram - gram.diag().diag()
    sums = gram.sum(0)
    gram = gram - (sums + sums[:, None]) / (n - 2) + gram.sum() / ((n - 1) * (n - 2))
    return gram - gram.diag().diag()


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one * other).sum() / (one.square().sum() * other.square().sum()).sqrt())


def peak() -> float:
    """MB: since it was last reset where Linux tells, else of the whole process."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine(asked: argparse.Namespace) -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, {asked.threads} threads, torch {torch.__version__}"


if __name__ == "__main__":
    main()
