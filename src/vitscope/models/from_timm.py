"""timm's models, by names such as `vit_tiny_patch16_224`, `timm:resnet50.a1_in1k` and `hf-hub:timm/...`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError
from timm.data.config import resolve_data_config
from timm.data.imagenet_info import ImageNetInfo
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, split_model_name_tag
from torch import nn

from vitscope.errors import MissingPath, NotCached, UnknownModel, WeightsError, nearest, suggestion
from vitscope.models import checkpoints
from vitscope.models.vision_model import Bare, Preprocessing

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm's repositories on the hub call their weights, in the order timm looks (timm.models._hub)."""


def names() -> list[str]:
    """Every architecture, and with its tag every one that has published weights."""
    return sorted({*timm.list_models(), *timm.list_pretrained()})


def open_timm(name: str, *, weights: str = "pretrained", seed: int = 0) -> Bare:
    """A timm model.

    Args:
        name: "vit_tiny_patch16_224", or with the tag of its weights "resnet50.a1_in1k".
        weights: "pretrained", "random" or a file.
        seed: of random weights.

    Raises:
        UnknownModel: no such architecture or tag; the nearest, or all tags, are named.
        NotCached: pretrained weights are not on this machine and it is offline.
        WeightsError: the weights cannot be read, do not fit or do not exist.
    """
    arch, tag = split_model_name_tag(name)
    known = timm.list_models()
    if arch not in known:
        raise UnknownModel(
            f"no timm model {arch or name!r}.{suggestion(arch, known)} List them: vitscope models timm:"
        )
    tags = [split_model_name_tag(full)[1] for full in get_arch_pretrained_cfgs(arch)]
    if tag and tag not in tags:
        raise UnknownModel(
            f"no tag {tag!r} of timm:{arch}.{suggestion(tag, tags)} There are: {', '.join(tags)}."
        )
    overlay = _cached_file(get_pretrained_cfg(name), name) if weights == "pretrained" else {}
    return _open(name, f"timm:{name}", weights=weights, seed=seed, overlay=overlay)


def open_hub(name: str, *, weights: str = "pretrained", seed: int = 0) -> Bare:
    """A timm model in a repository of the Hugging Face hub, "owner/name" or "owner/name@revision".

    What has been fetched once is used as it is; the hub is asked only for what is not on this machine.
    """
    repository, _, revision = name.partition("@")
    try:
        config = try_to_load_from_cache(repository, "config.json", revision=revision or None)
    except HFValidationError as error:
        raise UnknownModel(f"not the name of a repository on the hub: {name!r} (it is owner/name)") from error
    folder = Path(config).parent if isinstance(config, str) else None
    if folder and (weights != "pretrained" or any((folder / file).is_file() for file in HUB_FILES)):
        # what is on this machine is read as a folder: asking the hub about it would fail slowly while offline
        return _open(f"local-dir:{folder}", f"hf-hub:{name}", weights=weights, seed=seed, overlay={})
    checkpoints.require_hub(f"hf-hub:{name}")
    return _open(f"hf-hub:{name}", f"hf-hub:{name}", weights=weights, seed=seed, overlay={})


def open_folder(name: str, *, weights: str = "pretrained", seed: int = 0) -> Bare:
    """A timm model in a folder with a `config.json` and its weights, as timm saves them for the hub."""
    if not (Path(name) / "config.json").is_file():
        raise MissingPath(f"no model in {name}: it holds no config.json")
    return _open(f"local-dir:{name}", f"local-dir:{name}", weights=weights, seed=seed, overlay={})


def _open(name: str, full_name: str, *, weights: str, seed: int, overlay: dict[str, Any]) -> Bare:
    def build() -> nn.Module:
        module: nn.Module = timm.create_model(
            name, pretrained=weights == "pretrained", pretrained_cfg_overlay=overlay or None
        )
        return module

    try:
        module = checkpoints.seeded(build, seed=seed)
    except RepositoryNotFoundError as error:
        raise UnknownModel(f"there is no {full_name}: {error}") from error
    except OSError as error:
        raise NotCached(f"the weights of {full_name} could not be fetched: {error}") from error
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(f"cannot load the weights of {full_name}: {error}") from error
    if weights not in ("pretrained", "random"):
        checkpoints.fill(module, weights)
    return Bare(
        module.eval(),
        full_name,
        preprocessing_of(module),
        classes_of(module),
        _notes(module),
        output="logits" if getattr(module, "num_classes", 0) else "embedding",
    )


def preprocessing_of(module: nn.Module) -> Preprocessing:
    """The facts behind timm's own evaluation transform."""
    facts = resolve_data_config(model=module)  # type: ignore[no-untyped-call,unused-ignore]
    size = facts["input_size"][1:]
    # timm.data.transforms_factory: sides become floor(size / crop_pct), then the centre is cropped
    shorter = math.floor(min(size) / facts["crop_pct"])
    return Preprocessing(
        size=tuple(size),
        resize=None if facts["crop_mode"] == "squash" else shorter,
        interpolation=facts["interpolation"],
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
    )


def _notes(module: nn.Module) -> tuple[str, ...]:
    """Two of timm's ways to crop, of 17 of its 1,826 weights, cannot be said in a `Preprocessing`."""
    facts = resolve_data_config(model=module)  # type: ignore[no-untyped-call,unused-ignore]
    if facts["crop_mode"] == "border":
        return ("timm pads this model's images to a square; here their centre is cropped",)
    if facts["crop_mode"] == "squash" and facts["crop_pct"] != 1:
        return (f"timm squashes to size / {facts['crop_pct']} and crops; here all of it is squashed",)
    return ()


def classes_of(module: nn.Module) -> tuple[str, ...] | None:
    """Names of the logits: the model's own, or those of ImageNet-1k where it has 1000."""
    facts = getattr(module, "pretrained_cfg", {})
    own, described = facts.get("label_names"), facts.get("label_descriptions") or {}
    count = getattr(module, "num_classes", 0)
    if own and len(own) == count:
        return tuple(described.get(label, label) for label in own)
    return tuple(ImageNetInfo().label_descriptions()) if count == 1000 else None


def _cached_file(facts: Any, name: str) -> dict[str, Any]:
    """What makes timm read weights that are on this machine without asking the network, with its retries."""
    if facts is None or not facts.has_weights:
        options = [full for full, other in get_arch_pretrained_cfgs(name).items() if other.has_weights]
        raise WeightsError(
            f"timm publishes no weights for {name}: say --weights random or a file."
            + (f" With weights there are: {', '.join(nearest(name, options) or options)}." if options else "")
        )
    for file in (facts.hf_hub_filename, *HUB_FILES) if facts.hf_hub_id else ():
        path = try_to_load_from_cache(facts.hf_hub_id, file) if file else None
        if isinstance(path, str):
            return {} if facts.custom_load else {"file": path}
    if facts.url:
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(str(facts.url)).path).name
        if path.is_file():
            return {} if facts.custom_load else {"file": str(path)}
    checkpoints.require_hub(f"timm:{name}", url=constants.ENDPOINT if facts.hf_hub_id else str(facts.url))
    return {}
