"""Small models, and random weights that show mix-ups."""

from __future__ import annotations

from typing import Any

import torch
from timm import create_model
from torch import nn

from vitscope.models import load
from vitscope.models.checkpoints import seeded
from vitscope.models.vision_model import VisionModel

SPREAD = 5.0
"""Factor on freshly initialised linear maps: attention is then far from flat, and logits differ."""


def stirred(module: nn.Module, *, seed: int = 0) -> nn.Module:
    """The same module under random weights that show mix-ups; changed in place.

    Fresh norms, biases and position tables are the same everywhere, fresh layer scales and some classifiers
    near zero, which hides what they do: half of a uniform number is added to each. Linear maps are spread.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            is_map = isinstance(part, (nn.Linear, nn.Conv2d))
            for weight in part.parameters(recurse=False):
                if not (is_map and weight.ndim > 1) or not weight.any():
                    weight.add_(0.5 * torch.rand(weight.shape, generator=draw))
                elif isinstance(part, nn.Linear):
                    weight.mul_(SPREAD)
    return module


def tiny_vit(*, seed: int = 0, **settings: Any) -> VisionModel:
    """A ViT of 3 blocks, 24 wide, 3 heads, on 4 x 4 patches of 8 pixels and a CLS token, with 10 logits.

    Args:
        seed: of its random weights.
        settings: override what timm's ViT is given: `reg_tokens=2`, `init_values=0.1`, `qk_norm=True`,
            `depth=1`, `class_token=False, global_pool="avg"`, `img_size=(32, 48)`, ...
    """
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 10}
    facts = {**shape, **settings}
    module = seeded(lambda: create_model("vit_tiny_patch16_224", **facts), seed=seed)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.weight.data.mul_(SPREAD)
    size = facts["img_size"]
    return load(module, sample=(size, size) if isinstance(size, int) else size, device="cpu")


def tiny_cnn(*, seed: int = 0) -> VisionModel:
    """A residual CNN of 5 blocks in 4 stages, 8 to 24 channels, with 10 logits. Its last maps are 1 x 1."""
    facts: dict[str, Any] = {
        "layers": (1, 2, 1, 1),
        "channels": (8, 12, 16, 24),
        "stem_width": 8,
        "num_classes": 10,
    }
    module = seeded(lambda: create_model("resnet18", zero_init_last=False, **facts), seed=seed)
    return load(module, sample=(32, 32), device="cpu")
