"""The two small models that travel with the package: their architectures, weights, classes and input facts.

Both take 64 × 64 images, know the 200 classes of Tiny-ImageNet and were trained by `training/train.py`;
`weights/<name>.md` is the card of each, with its measured accuracy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitscope.errors import UnknownModel, WeightsError, suggestion

CLASS_COUNT = 200
_WEIGHTS = resources.files("vitscope.models") / "weights"


@dataclass(frozen=True)
class Input:
    """How an image becomes the input of a bundled model.

    `size` and `resize` are in pixels, `mean` and `std` one number per channel of an image in 0..1.
    """

    size: int = 64
    resize: int = 64
    interpolation: str = "bicubic"
    crop: str = "none"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


INPUT = Input()


class Label(NamedTuple):
    """One class: its WordNet identifier and its English names, comma-separated."""

    wnid: str
    name: str


CLASSES: tuple[Label, ...] = tuple(
    Label(wnid, name) for wnid, name in json.loads((_WEIGHTS / "classes.json").read_text(encoding="utf-8"))
)
"""The classes in the order of the logits."""


def _vit_mini() -> nn.Module:
    return VisionTransformer(
        img_size=INPUT.size,
        patch_size=8,
        num_classes=CLASS_COUNT,
        embed_dim=192,
        depth=6,
        num_heads=3,
        mlp_ratio=4.0,
    )


def _cnn_mini() -> nn.Module:
    model = ResNet(
        BasicBlock,  # type: ignore[arg-type]  # timm means the class
        (1, 2, 2, 1),
        num_classes=CLASS_COUNT,
        channels=(32, 64, 128, 256),
        stem_type="deep",
        stem_width=16,
    )
    # Without stem pooling the maps of a 64-pixel image are 32, 16, 8 and 4 pixels wide.
    model.maxpool = nn.Identity()  # type: ignore[assignment]
    return model


_BUILDERS: dict[str, Callable[[], nn.Module]] = {"vit_mini": _vit_mini, "cnn_mini": _cnn_mini}

NAMES: tuple[str, ...] = tuple(_BUILDERS)


def build(name: str) -> nn.Module:
    """The bare architecture of a bundled model, freshly initialised from the global random state.

    It maps images (batch, 3, 64, 64), scaled by `INPUT`, to logits (batch, 200).
    """
    return _BUILDERS[_known(name)]()


def load_state(name: str) -> dict[str, Tensor]:
    """The trained weights of a bundled model, for `build(name).load_state_dict`; float32 on the CPU."""
    with resources.as_file(_WEIGHTS / f"{_known(name)}.safetensors") as path:
        return read_state(path)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of one exported file, the floating ones as float32."""
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read the weights {path.name}: {error}") from error
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


@cache
def metadata(name: str) -> dict[str, str]:
    """What the file of a bundled model says of itself: classes, top1, top5, data and recipe."""
    with resources.as_file(_WEIGHTS / f"{_known(name)}.safetensors") as path:
        try:
            with safe_open(path, framework="pt") as file:
                return dict(file.metadata() or {})
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"cannot read the weights {path.name}: {error}") from error


def _known(name: str) -> str:
    if name not in _BUILDERS:
        message = f"no bundled model {name!r}; there are {', '.join(NAMES)}.{suggestion(name, NAMES)}"
        raise UnknownModel(message)
    return name
