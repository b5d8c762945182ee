"""Models: `load` opens one by name or wraps a module, `find` searches names. Libraries are imported late."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from vitscope.errors import BadValue, DeviceError, UnknownModel
from vitscope.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from vitscope.models.vision_model import Bare, Preprocessing, VisionModel

MODELS = Registry(
    "model library",
    {
        "timm": "vitscope.models.from_timm:open_timm",
        "tv": "vitscope.models.from_torchvision:open_torchvision",
        "vitscope": "vitscope.models.from_bundled:open_bundled",
        "hf-hub": "vitscope.models.from_timm:open_hub",
        "local-dir": "vitscope.models.from_timm:open_folder",
        "open_clip": "vitscope.models.from_open_clip:open_image",
        "hf": "vitscope.models.from_transformers:open_transformers",
    },
    error=UnknownModel,
)
"""The prefix of a name -> the function that opens the rest: `open(name, *, weights, seed) -> Bare`."""

CATALOGUES = Registry(
    "model catalogue",
    {
        "vitscope": "vitscope.models.from_bundled:names",
        "timm": "vitscope.models.from_timm:names",
        "tv": "vitscope.models.from_torchvision:names",
        "open_clip": "vitscope.models.from_open_clip:names",
        "hf": "vitscope.models.from_transformers:names",
    },
)
"""The prefixes whose names can be listed -> the function that lists them."""

DTYPES = ("float32", "bfloat16", "float16", "float64")


def load(
    model: str | nn.Module,
    *,
    weights: str = "pretrained",
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    sample: Tensor | tuple[int, int] | None = None,
    preprocessing: Preprocessing | None = None,
    classes: tuple[str, ...] | None = None,
) -> VisionModel:
    """Open a model, find its sites and check its weights.

    Args:
        model: a name such as "vit_tiny_patch16_224" (timm), "timm:resnet50.a1_in1k", "tv:resnet18",
            "open_clip:ViT-B-32/openai" (its image tower), "hf:google/vit-base-patch16-224" or "hf:FOLDER"
            (transformers), "vitscope:vit_mini", "hf-hub:timm/..." or "local-dir:FOLDER" (timm); or any
            module, with a `sample`.
        weights: "pretrained", "random", or a file: `.safetensors`, or `.pt`, from which no code is ever run.
            A module keeps the weights it has unless a file is given; it is moved and put in eval mode.
        seed: of random weights; the same seed gives the same weights.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", ...
        dtype: "float32", "bfloat16", "float16" or "float64", the type of the weights and of the arithmetic.
        sample: for a module: images "image rgb row column" in [0, 1], or their (rows, columns).
        preprocessing: overrides what the model's own library says; a module needs it unless it takes [0, 1].
        classes: overrides the names of the logits.

    Raises:
        MissingExtra: open_clip or transformers is asked for and not installed.
        UnknownModel: no such model; the nearest are named.
        NotCached: pretrained weights are not on this machine and it is offline.
        WeightsError: the weights cannot be read, want to run code, do not fit or are not finite.
        DeviceError: the device is not there.

    Example:
        >>> load("vitscope:vit_mini").sites("blocks.*.ffn")
    """
    import torch

    from vitscope.models import checkpoints, sites
    from vitscope.models.vision_model import VisionModel

    place, kind = _device(device), _dtype(dtype)
    if isinstance(model, str):
        bare = _named(model, weights=str(weights), seed=seed)
    else:
        bare = _given(model, weights=str(weights), sample=sample, preprocessing=preprocessing)
    checkpoints.check_finite(bare.module, bare.name)
    facts = preprocessing or bare.preprocessing
    exact = torch.promote_types(kind, torch.float32)  # sites are checked by value, so not in half precision
    found = sites.find_sites(bare.module.to("cpu", exact), _noise(facts).to(exact), output=bare.output)
    opened = VisionModel(
        bare.module,
        bare.name,
        preprocessing=facts,
        sites=found.sites,
        raw=found.raw,
        classes=classes or bare.classes,
        notes=(*bare.notes, *found.notes),
    )
    return opened.to(place, kind)


def find(query: str = "") -> list[str]:
    """Full names that match: a glob if the query holds `*` or `?`, else whatever contains it."""
    prefix, colon, rest = query.partition(":")
    if colon and prefix not in CATALOGUES:
        raise UnknownModel(f"no list of models for {prefix!r}. There are: {', '.join(CATALOGUES)}.")
    libraries, asked = ([prefix], rest) if colon else (list(CATALOGUES), query)
    pattern = asked if any(sign in asked for sign in "*?[") else f"*{asked}*"
    return [
        f"{library}:{name}"
        for library in libraries
        for name in CATALOGUES.get(library)()
        if fnmatch.fnmatchcase(name.lower(), pattern.lower())
    ]


def _named(model: str, *, weights: str, seed: int) -> Bare:
    prefix, colon, rest = model.partition(":")
    library, name = (prefix, rest) if colon else ("timm", model)
    bare: Bare = MODELS.get(library)(name, weights=weights, seed=seed)
    return bare


def _given(
    module: nn.Module,
    *,
    weights: str,
    sample: Tensor | tuple[int, int] | None,
    preprocessing: Preprocessing | None,
) -> Bare:
    from vitscope.models import checkpoints, from_module

    if weights == "random":
        raise BadValue("a module brings its own weights: leave weights out, or give a file")
    if weights != "pretrained":
        checkpoints.fill(module, weights)
    return from_module.open_module(module, sample, preprocessing=preprocessing)


def _noise(facts: Preprocessing) -> Tensor:
    """Two images of noise as the module takes them, on the CPU, the same every time."""
    import torch

    pixels = torch.rand(2, 3, *facts.size, generator=torch.Generator().manual_seed(0))
    return facts.normalise(pixels)


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadValue(f"no device {name!r}: say auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"no device {name!r}: this machine has {torch.cuda.device_count()} of its kind. Try --device auto"
        )
    return device


def _dtype(name: str) -> torch.dtype:
    import torch

    if name not in DTYPES:
        raise BadValue(f"no dtype {name!r}. There are: {', '.join(DTYPES)}.")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
