"""Tiny image towers made of open_clip's own classes: one of every way that the library builds them."""

from collections.abc import Callable
from typing import Any

from torch import nn

Factory = Callable[[], tuple[nn.Module, tuple[int, int]]]

VIT = {"image_size": 64, "layers": 2, "width": 32, "head_width": 8, "patch_size": 16}
TIMM = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear"}
WIDTH = 16
"""Of the embeddings."""

CONFIGS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "vit_quick_gelu": {**VIT, "ls_init_value": 0.1, "patch_dropout": 0.5},
    "vit_average_no_pre_norm": {**VIT, "pool_type": "avg", "no_ln_pre": True, "final_ln_after_pool": True},
    "vit_attentional_pool": {
        **VIT, "attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4,
        "output_tokens": True,
    },
    "vit_custom_blocks": {**VIT, "qk_norm": True, "scale_heads": True, "scale_attn": True, "scale_fc": True},
    "vit_sin_cos": {**VIT, "pos_embed_type": "sin_cos_2d"},
    "vit_not_square": {**VIT, "image_size": [48, 80]},
    "modified_resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
    "timm_vit": TIMM,
    "timm_convnext": {**TIMM, "timm_model_name": "test_convnext", "timm_pool": ""},
    "timm_resnet": {**TIMM, "timm_model_name": "test_resnet", "timm_proj": "mlp"},
}  # fmt: skip
"""Name -> the `vision_cfg` of a CLIP."""


def towers() -> dict[str, Factory]:
    """Name -> a function that gives a tower with random weights, in eval mode, and its (rows, columns)."""
    return {name: lambda name=name: tower(name) for name in CONFIGS}


def tower(name: str) -> tuple[nn.Module, tuple[int, int]]:
    from open_clip.model import _build_vision_tower

    size = CONFIGS[name]["image_size"]
    module = _build_vision_tower(WIDTH, CONFIGS[name], quick_gelu=name == "vit_quick_gelu")
    return module.eval(), tuple(size) if isinstance(size, list) else (size, size)
