"""Tiny vision models made of transformers' own classes: one of every way that the library writes a block."""

from collections.abc import Callable
from typing import Any

from torch import nn

Factory = Callable[[], tuple[nn.Module, tuple[int, int]]]

SIZE = 64
TOKENS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": SIZE,
    "patch_size": 16,
}
SWIN = {
    "image_size": SIZE,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
STAGES = {"image_size": SIZE, "hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 2, 1]}
CLASSES = {"num_labels": 7}

CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", {**TOKENS, **CLASSES}),
    "vit_plain": ("ViTModel", "ViTConfig", {**TOKENS, "num_hidden_layers": 3, "qkv_bias": False}),
    "vit_not_square": (
        "ViTForImageClassification",
        "ViTConfig",
        {**TOKENS, "image_size": (48, 80), **CLASSES},
    ),
    "deit_distilled": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", {**TOKENS, **CLASSES}),
    "swin": ("SwinForImageClassification", "SwinConfig", {**SWIN, **CLASSES}),
    "swinv2": ("Swinv2ForImageClassification", "Swinv2Config", {**SWIN, **CLASSES}),
    "clip": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", {**TOKENS, "projection_dim": 16}),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", TOKENS),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", {**TOKENS, "mlp_ratio": 2, **CLASSES}),
    "dinov2_gated": ("Dinov2Model", "Dinov2Config", {**TOKENS, "use_swiglu_ffn": True}),
    "dinov2_registers": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        {**TOKENS, "num_register_tokens": 3, **CLASSES},
    ),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", {**TOKENS, "num_register_tokens": 2}),
    "dinov3_gated": ("DINOv3ViTModel", "DINOv3ViTConfig", {**TOKENS, "use_gated_mlp": True}),
    "beit": (
        "BeitForImageClassification",
        "BeitConfig",
        {**TOKENS, "use_relative_position_bias": True, "layer_scale_init_value": 0.1, **CLASSES},
    ),
    "convnext": ("ConvNextForImageClassification", "ConvNextConfig", {**STAGES, **CLASSES}),
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], **CLASSES},
    ),
}
"""Name -> the model's class, its config's class, and what the config says."""


def models() -> dict[str, Factory]:
    """Name -> a function that gives a model with random weights, in eval mode, and its (rows, columns)."""
    return {name: lambda name=name: model(name) for name in CONFIGS}


def model(name: str) -> tuple[nn.Module, tuple[int, int]]:
    import transformers

    kind, config, facts = CONFIGS[name]
    size = facts.get("image_size", SIZE)
    module = getattr(transformers, kind)(getattr(transformers, config)(**facts))
    return module.eval(), size if isinstance(size, tuple) else (size, size)
