"""One training run: its recipe, the augmentation, the loss and the loop."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import typer
from dataset import Replacing, Split, console, scaled
from timm.layers.patch_dropout import PatchDropout
from torch import Tensor, nn

from vitscope.models import bundled


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run besides the data, the teacher and the machine."""

    epochs: int
    batch: int = 128
    rate: float = 1e-3  # the peak of the learning rate: linear warm-up, then a cosine to zero
    warmup: int = 2  # epochs
    decay: float = 0.05  # of weights with two or more axes
    distill: float = 0.7  # the share of the teacher in the loss
    temperature: float = 1.0  # of both softmaxes in the teacher's share
    smoothing: float = 0.1  # of the labels
    scale: float = 0.5  # the least share of the image's area in a crop
    jitter: float = 0.3  # the largest relative change of brightness, contrast and saturation
    mixup: float = 0.0  # both parameters of the beta distribution of the share of a second image; 0: none
    drop_patches: float = 0.0  # the share of patches that a ViT does not see
    whole: int = 0  # the number of last epochs that see every patch
    share: float = 1.0  # of the training images of each class
    seed: int = 0


RECIPES: dict[str, Recipe] = {
    "vit_mini": Recipe(epochs=24, drop_patches=0.5, whole=4),
    "cnn_mini": Recipe(epochs=14, rate=1.5e-3),
}


def crop(images: Tensor, *, scale: float) -> Tensor:
    """Random crops of at least `scale` of the area, mirrored half of the time, resampled to the full size."""
    count, device = len(images), images.device
    area = torch.empty(count, device=device).uniform_(scale, 1)
    aspect = torch.empty(count, device=device).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    extent = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1).clamp(max=1)
    shift = (1 - extent) * torch.empty_like(extent).uniform_(-1, 1)
    extent[:, 0] *= torch.randint(0, 2, (count,), device=device) * 2 - 1
    transform = torch.cat([torch.diag_embed(extent), shift[:, :, None]], dim=2)
    grid = F.affine_grid(transform, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def jitter(images: Tensor, *, amount: float) -> Tensor:
    """Random brightness, contrast and saturation, each by up to `amount` in proportion; images in -1..1."""
    factors = torch.empty(3, len(images), 1, 1, 1, device=images.device).uniform_(1 - amount, 1 + amount)
    bright = (images + 1) * factors[0]
    mean = bright.mean((1, 2, 3), keepdim=True)
    contrasted = (bright - mean) * factors[1] + mean
    grey = contrasted.mean(1, keepdim=True)
    return ((contrasted - grey) * factors[2] + grey - 1).clamp(-1, 1)


def augment(images: Tensor, targets: list[Tensor], *, recipe: Recipe) -> tuple[Tensor, list[Tensor]]:
    """Cropped, mirrored, recoloured and mixed images with their targets mixed alike."""
    images = jitter(crop(scaled(images), scale=recipe.scale), amount=recipe.jitter)
    share = float(np.random.beta(recipe.mixup, recipe.mixup)) if recipe.mixup else 1.0
    order = torch.randperm(len(images), device=images.device)
    return images.lerp(images[order], 1 - share), [t.lerp(t[order], 1 - share) for t in targets]


def targets(split: Split, rows: Tensor, *, recipe: Recipe, device: torch.device) -> list[Tensor]:
    """Class probabilities of the smoothed labels and of the teacher at the recipe's temperature."""
    hard = F.one_hot(split.labels[rows].to(device), bundled.CLASS_COUNT).float()
    hard = hard * (1 - recipe.smoothing) + recipe.smoothing / bundled.CLASS_COUNT
    if split.teacher is None:
        return [hard, hard]
    return [hard, (split.teacher[rows].to(device).float() / recipe.temperature).softmax(1)]


def loss_of(logits: Tensor, hard: Tensor, soft: Tensor, *, recipe: Recipe) -> Tensor:
    """The recipe's mix of cross-entropies to the labels and to the teacher (times temperature squared)."""
    heat = recipe.temperature
    taught = F.cross_entropy(logits / heat, soft) * heat**2
    return (1 - recipe.distill) * F.cross_entropy(logits, hard) + recipe.distill * taught


def forward(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (float32) computed in bfloat16 from float32 parameters; batch norms keep theirs."""
    exact = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    cast = {key: p if id(p) in exact else p.bfloat16() for key, p in model.named_parameters()}
    logits: Tensor = torch.func.functional_call(model, cast, (images.bfloat16(),))
    return logits.float()


class Run:
    """A model in training: its state between two epochs is one checkpoint."""

    def __init__(self, name: str, recipe: Recipe, *, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        self.name, self.recipe, self.device = name, recipe, device
        self.model = bundled.build(name).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.drop_patches:
            self.model.patch_drop = PatchDropout(recipe.drop_patches)
        flat = [p for p in self.model.parameters() if p.ndim < 2]
        deep = [p for p in self.model.parameters() if p.ndim >= 2]
        groups = [{"params": deep, "weight_decay": recipe.decay}, {"params": flat, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.rate)
        self.epoch, self.seconds, self.cpu_seconds = 0, 0.0, 0.0
        self.changes: list[str] = []

    def save(self, path: Path) -> None:
        state = {"recipe": asdict(self.recipe), "epoch": self.epoch, "model": self.model.state_dict()}
        state |= {"optimizer": self.optimizer.state_dict(), "changes": self.changes}
        state["times"] = [self.seconds, self.cpu_seconds]
        with Replacing(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of this recipe; only the plan's length may differ, and is noted."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        before = Recipe(**state["recipe"])
        if replace(before, epochs=self.recipe.epochs, whole=self.recipe.whole) != self.recipe:
            raise typer.BadParameter(f"{path} was made with another recipe: {state['recipe']}")
        self.changes = state["changes"]
        if before != self.recipe:
            was, now = (f"{r.epochs} epochs ({r.whole} with every patch)" for r in (before, self.recipe))
            self.changes.append(f"after epoch {state['epoch']} the plan changed from {was} to {now}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, (self.seconds, self.cpu_seconds) = state["epoch"], state["times"]

    def rate(self, progress: float) -> float:
        """The learning rate after `progress` epochs."""
        recipe = self.recipe
        if progress < recipe.warmup:
            return recipe.rate * progress / recipe.warmup
        done = (progress - recipe.warmup) / max(recipe.epochs - recipe.warmup, 1)
        return recipe.rate * 0.5 * (1 + math.cos(math.pi * done))

    def step(self, split: Split, rows: Tensor, *, progress: float) -> float:
        """One update on the images of these rows; the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(progress)
        wanted = targets(split, rows, recipe=self.recipe, device=self.device)
        images, (hard, soft) = augment(split.images[rows].to(self.device), wanted, recipe=self.recipe)
        images = images.contiguous(memory_format=torch.channels_last)
        loss = loss_of(forward(self.model, images), hard, soft, recipe=self.recipe)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def start_epoch(self) -> None:
        seed = self.recipe.seed * 10_000 + self.epoch + 1
        torch.manual_seed(seed)
        np.random.seed(seed)
        self.model.train()
        if isinstance(drop := getattr(self.model, "patch_drop", None), PatchDropout):
            partial = self.epoch < self.recipe.epochs - self.recipe.whole
            drop.prob = self.recipe.drop_patches if partial else 0.0

    def train_epoch(self, split: Split) -> None:
        """Every image once, in whole batches; seed and epoch alone decide their order and augmentation."""
        started, cpu = time.time(), time.process_time()
        self.start_epoch()
        order = torch.randperm(len(split.images))
        batch = min(self.recipe.batch, len(order))
        steps = len(order) // batch
        losses = [
            self.step(split, order[i * batch : (i + 1) * batch], progress=self.epoch + i / steps)
            for i in range(steps)
        ]
        took = time.time() - started
        self.epoch += 1
        self.seconds += took
        self.cpu_seconds += time.process_time() - cpu
        progress = f"epoch {self.epoch}/{self.recipe.epochs}"
        console.log(f"{self.name}: {progress} loss {np.mean(losses):.4f} {steps * batch / took:.0f}/s")
