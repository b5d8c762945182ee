"""Small models of torchvision, one of every way it writes a block, and a few more."""

from collections.abc import Callable
from typing import Any

from torch import nn

Factory = Callable[[], tuple[nn.Module, tuple[int, int]]]

VIT = {"patch_size": 16, "num_layers": 3, "num_heads": 4, "hidden_dim": 48, "mlp_dim": 96}
SWIN = {
    "patch_size": [4, 4],
    "embed_dim": 24,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": [4, 4],
}

ZOO: dict[str, tuple[int, dict[str, Any]]] = {
    "convnext_tiny": (64, {}),
    "densenet121": (64, {}),
    "efficientnet_b0": (64, {}),
    "maxvit_t": (64, {}),
    "mnasnet0_5": (64, {}),
    "mobilenet_v2": (64, {"width_mult": 0.25}),
    "mobilenet_v3_small": (64, {}),
    "regnet_y_400mf": (64, {}),
    "resnet18": (64, {}),
    "resnet50": (64, {"width_per_group": 16}),
    "resnext50_32x4d": (64, {}),
    "shufflenet_v2_x0_5": (64, {}),
    "squeezenet1_1": (64, {}),
    "swin_t": (64, {}),
    "swin_v2_t": (64, {}),
    "vit_b_16": (64, {}),
}
"""Architecture -> the side of its square input in pixels, and settings that make it small."""


def models() -> dict[str, Factory]:
    """Name -> a function that gives a model with random weights, in eval mode, and its (rows, columns)."""
    return {name: lambda name=name: model(name) for name in ZOO}


def model(name: str) -> tuple[nn.Module, tuple[int, int]]:
    import torchvision
    from torchvision.models import ConvNeXt, DenseNet, MaxVit, SwinTransformer, VisionTransformer
    from torchvision.models.convnext import CNBlockConfig
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

    size, settings = ZOO[name]
    built: dict[str, Callable[[], nn.Module]] = {
        "convnext_tiny": lambda: ConvNeXt(
            [CNBlockConfig(16, 24, 1), CNBlockConfig(24, 32, 1), CNBlockConfig(32, None, 2)], num_classes=10
        ),
        "vit_b_16": lambda: VisionTransformer(size, **VIT, num_classes=10),
        "swin_t": lambda: SwinTransformer(**SWIN, num_classes=10),
        "swin_v2_t": lambda: SwinTransformer(
            **SWIN, num_classes=10, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
        ),
        "densenet121": lambda: DenseNet(block_config=(2, 2, 2, 2), num_classes=10),
        "maxvit_t": lambda: MaxVit((size, size), 16, 4, [16, 32], [1, 1], 8, 0.0, num_classes=10),
    }
    facts = {"weights": None, "num_classes": 10, **settings}
    build = built.get(name, lambda: torchvision.models.get_model(name, **facts))
    return build().eval(), (size, size)
