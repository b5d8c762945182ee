"""Tiny-ImageNet as tensors, decoded once, with the logits of a teacher, computed once."""

from __future__ import annotations

import csv
import io
import tarfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

console = Console()
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Split:
    """Images (uint8, (image, channel, 64, 64)), their class indices and perhaps a teacher's logits."""

    images: Tensor
    labels: Tensor
    teacher: Tensor | None = None


class Replacing:
    """A temporary path that takes the place of `path` when the block ends well."""

    def __init__(self, path: Path) -> None:
        self.path, self.temporary = path, path.with_name(path.name + ".tmp")

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.temporary

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink(missing_ok=True)


def decode(archive: Path, *, wnids: list[str]) -> tuple[Array, Array]:
    """The images (uint8) and class indices of a `<split>.tar.gz` with members `<split>/<wnid>/<file>`."""
    images, labels = [], []
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is None:
                continue
            pixels = Image.open(io.BytesIO(file.read())).convert("RGB")
            images.append(np.asarray(pixels).transpose(2, 0, 1))
            labels.append(wnids.index(Path(member.name).parent.name))
    return np.stack(images), np.asarray(labels, dtype=np.int64)


def read_split(archive: Path, *, wnids: list[str], cache: Path) -> Split:
    """One split, decoded at the first call and read from the cache folder after that."""
    stored = cache / f"{archive.name.split('.')[0]}.npz"
    if not stored.exists():
        images, labels = decode(archive, wnids=wnids)
        with Replacing(stored) as temporary, temporary.open("wb") as file:
            np.savez(file, images=images, labels=labels)
    with np.load(stored) as arrays:
        return Split(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]))


def reduced(split: Split, *, share: float) -> Split:
    """A share of the images of each class, in the split's order; at least one of each.

    Which ones never changes, and a smaller share lies within a larger one.
    """
    if not 0 < share <= 1:
        raise typer.BadParameter(f"the share of the images is above 0 and at most 1, not {share}")
    drawn = np.random.default_rng(0).permutation(len(split.labels))
    labels, kept = split.labels.numpy()[drawn], []
    for label in np.unique(labels):
        own = drawn[labels == label]
        kept.append(own[: max(1, round(share * len(own)))])
    rows = torch.from_numpy(np.sort(np.concatenate(kept)))
    teacher = None if split.teacher is None else split.teacher[rows]
    return Split(split.images[rows], split.labels[rows], teacher)


def scaled(images: Tensor) -> Tensor:
    """Pixels 0..255 as the models take them: -1..1."""
    return images.float().div(127.5).sub(1)


def read_columns(classes: Path, *, wnids: list[str]) -> list[int]:
    """The teacher's logit index of each wnid, from a table with the columns `index` and `wnid`."""
    with classes.open(newline="", encoding="utf-8") as file:
        index = {row["wnid"]: int(row["index"]) for row in csv.DictReader(file)}
    return [index[wnid] for wnid in wnids]


def load_teacher(weights: Path, *, device: torch.device) -> nn.Module:
    """A timm model named by its file, in bfloat16."""
    teacher: nn.Module = timm.create_model(weights.stem)
    teacher.load_state_dict(load_file(weights))
    return teacher.eval().to(device, torch.bfloat16)


@torch.inference_mode()
def teach(teacher: nn.Module, images: Tensor, *, columns: list[int], device: torch.device) -> Tensor:
    """The teacher's logits of images upscaled to 224 pixels: float16, (image, class)."""
    logits, started = [], time.time()
    for step, batch in enumerate(torch.split(images, 64)):
        large = F.interpolate(scaled(batch.to(device)), size=224, mode="bicubic").clamp(-1, 1)
        logits.append(teacher(large.bfloat16())[:, columns].half().cpu())
        if step % 50 == 0:
            rate = (step + 1) * 64 / (time.time() - started)
            console.log(f"teacher: {step * 64} of {len(images)} images, {rate:.0f} images/s")
    return torch.cat(logits)


def add_teacher(
    split: Split, weights: Path, *, columns: list[int], cache: Path, device: torch.device
) -> Split:
    """The split with the teacher's logits, computed at the first call and read from the cache after that."""
    stored = cache / f"{weights.stem}.npy"
    if not stored.exists():
        logits = teach(load_teacher(weights, device=device), split.images, columns=columns, device=device)
        with Replacing(stored) as temporary, temporary.open("wb") as file:
            np.save(file, logits.numpy())
    logits = torch.from_numpy(np.load(stored))
    console.log(f"teacher: top-1 {topk(logits, split.labels, k=1):.4f} on the training images")
    return replace(split, teacher=logits)


def topk(logits: Tensor, labels: Tensor, *, k: int) -> float:
    """The share of rows whose label is among the k largest logits."""
    return float((logits.float().topk(k, dim=1).indices == labels[:, None]).any(1).float().mean())
