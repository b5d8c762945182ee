"""torchvision's classifiers, by names such as `tv:resnet18` and `tv:resnet50/IMAGENET1K_V2`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import torchvision

from vitscope.errors import NotCached, UnknownModel, suggestion
from vitscope.models import checkpoints
from vitscope.models.vision_model import Bare, Preprocessing


def names() -> list[str]:
    """Every classifier, without tags."""
    return list(torchvision.models.list_models(module=torchvision.models))


def open_torchvision(name: str, *, weights: str = "pretrained", seed: int = 0) -> Bare:
    """A torchvision classifier.

    Args:
        name: "resnet18", or with the tag of its weights "resnet18/IMAGENET1K_V1".
        weights: "pretrained", "random" or a file.
        seed: of random weights.

    Raises:
        UnknownModel: no such model or tag; the nearest are named.
        NotCached: pretrained weights are not on this machine and it is offline.
        WeightsError: the weights cannot be read or do not fit.
    """
    arch, _, tag = name.partition("/")
    if arch not in names():
        raise UnknownModel(
            f"no torchvision model {arch!r}.{suggestion(arch, names())} List them: vitscope models tv:"
        )
    entry = _entry(arch, tag)
    module = checkpoints.seeded(lambda: torchvision.models.get_model(arch, weights=None), seed=seed)
    if weights == "pretrained":
        module.load_state_dict(_published(entry, name), strict=True)
    elif weights != "random":
        checkpoints.fill(module, weights)
    return Bare(
        module.eval(),
        f"tv:{arch}/{entry.name}",
        preprocessing_of(entry.transforms()),
        tuple(entry.meta["categories"]),
    )


def preprocessing_of(transforms: Any) -> Preprocessing:
    """The facts of one of torchvision's classification presets."""
    (crop,), (resize,) = transforms.crop_size, transforms.resize_size
    return Preprocessing(
        size=(crop, crop),
        resize=resize,
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _entry(arch: str, tag: str) -> Any:
    """The published weights of that tag, or the best; they know the preprocessing whatever weights go in."""
    table = torchvision.models.get_model_weights(arch)
    tags = [entry.name for entry in table]
    if tag and tag != "DEFAULT" and tag not in tags:
        raise UnknownModel(
            f"no weights {tag!r} of tv:{arch}.{suggestion(tag, tags)} There are: {', '.join(tags)}."
        )
    return table[tag or "DEFAULT"]


def _published(entry: Any, name: str) -> Any:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(entry.url).path).name
    if not cached.is_file():
        checkpoints.require_online(entry.url, wanted=f"tv:{name}")
    try:
        return entry.get_state_dict(check_hash=True)
    except OSError as error:
        raise NotCached(f"the weights of tv:{name} could not be fetched from {entry.url}: {error}") from error
