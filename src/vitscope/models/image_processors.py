"""transformers' `preprocessor_config.json`, what a model wants to be shown, as a `Preprocessing`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitscope.errors import WeightsError
from vitscope.models.vision_model import Preprocessing

RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the ways to resize that a `Preprocessing` can say; not so 4 (box) and 5 (hamming)."""

PLAIN: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_center_crop": False,
    "rescale_factor": 1 / 255,
    "default_to_square": True,
    "resample": 2,
    "size": None,
    "crop_size": None,
    "crop_pct": None,
    "image_mean": (0.485, 0.456, 0.406),
    "image_std": (0.229, 0.224, 0.225),
}
"""What is meant where neither file nor processor class says (BaseImageProcessor; ImageNet's mean and std)."""

WARPED_FROM = 384
"""ConvNeXt's processor squashes from this size on, and below it crops (image_processing_convnext.resize)."""
CONVNEXT_CROP = 224 / 256
"""What its processor crops where the file does not say (ConvNextImageProcessor.crop_pct)."""
LEVIT_SCALE = 256 / 224
"""LeViT's processor enlarges its shorter side by this (image_processing_levit.resize)."""


def read_facts(folder: Path, library: Any) -> dict[str, Any] | None:
    """What the files of a folder say, completed by the class attributes of the processor they name.

    Args:
        folder: with `preprocessor_config.json`, or `processor_config.json` of newer CLIPs.
        library: transformers.

    Returns:
        None where there is no such file.
    """
    found = read_json(folder / "preprocessor_config.json")
    if found is None:
        found = (read_json(folder / "processor_config.json") or {}).get("image_processor")
    if found is None:
        return None
    kind = str(found.get("image_processor_type") or found.get("feature_extractor_type") or "")
    kind = kind.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    # older versions say their defaults in the class with the suffix, newer ones in that without
    owners = (getattr(library, name, None) for name in (kind, f"{kind}Fast") if kind.isidentifier())
    owner = next((owner for owner in owners if hasattr(owner, "size")), None)
    defaults = {key: getattr(owner, key, None) for key in PLAIN}
    said = [*PLAIN.items(), *defaults.items(), *found.items()]
    return {**{key: value for key, value in said if value is not None}, "kind": kind}


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no file.

    Raises:
        WeightsError: it is not JSON, or not an object.
    """
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"cannot read {path}: it holds no JSON object")
    return found


def preprocessing_of(
    facts: Mapping[str, Any] | None, image_size: tuple[int, int]
) -> tuple[Preprocessing, tuple[str, ...]]:
    """The preprocessing, and what of it could not be taken over.

    Args:
        facts: as `read_facts` gives them; None where a model says nothing.
        image_size: rows and columns that the model's own config names.
    """
    if facts is None:
        note = "no preprocessor_config.json: images are squashed, and normalised with ImageNet's mean and std"
        return Preprocessing(image_size, None, "bilinear"), (note,)
    size, shorter, notes = _geometry(facts, image_size)
    kernel = RESAMPLE.get(int(facts["resample"]))
    if kernel is None:
        notes = (*notes, f"transformers resizes by Pillow's method {facts['resample']}; here it is bilinear")
    mean, std = _normalisation(facts)
    return Preprocessing(size, shorter, kernel or "bilinear", mean, std), notes


def _geometry(
    facts: Mapping[str, Any], image_size: tuple[int, int]
) -> tuple[tuple[int, int], int | None, tuple[str, ...]]:
    """Size after cropping, length of the shorter side before (None: squashed), and notes."""
    crop = _sides(facts.get("crop_size")) if facts["do_center_crop"] else None
    if not facts["do_resize"]:
        whole = crop or image_size
        return whole, max(whole), ("transformers does not resize this model's images; here they are",)
    size = facts.get("size")
    squashed = _sides(size) if facts["default_to_square"] or isinstance(size, Mapping) else None
    if squashed is not None:
        if crop in (None, squashed):
            return squashed, None, ()
        note = f"transformers squashes to {squashed[0]} x {squashed[1]} and crops; here the ratio is kept"
        return crop, max(squashed), (note,)
    shorter = _shorter(size)
    if shorter is None:
        return image_size, None, (f"a size of {size} cannot be said here: images are squashed",)
    return _by_shorter_side(facts, shorter, crop)


def _by_shorter_side(
    facts: Mapping[str, Any], shorter: int, crop: tuple[int, int] | None
) -> tuple[tuple[int, int], int | None, tuple[str, ...]]:
    kind, square = facts["kind"], (shorter, shorter)
    if kind.startswith("ConvNext"):
        return (
            square,
            None if shorter >= WARPED_FROM else int(shorter / facts.get("crop_pct", CONVNEXT_CROP)),
            (),
        )
    if facts.get("crop_pct"):
        shorter = int(shorter / facts["crop_pct"])
    elif kind.startswith("Levit"):
        shorter = int(LEVIT_SCALE * shorter)
    if crop is None:
        return (
            square,
            shorter,
            ("transformers does not crop this model's images; here their centre is cropped",),
        )
    return crop, shorter, ()


def _sides(size: Any) -> tuple[int, int] | None:
    """Rows and columns; None where they are not said."""
    if isinstance(size, Mapping):
        return (int(size["height"]), int(size["width"])) if {"height", "width"} <= set(size) else None
    if isinstance(size, (list, tuple)):
        return int(size[0]), int(size[-1])
    return (int(size), int(size)) if isinstance(size, int) else None


def _shorter(size: Any) -> int | None:
    found = size.get("shortest_edge") if isinstance(size, Mapping) else size
    return int(found) if isinstance(found, (int, float)) else None


def _normalisation(
    facts: Mapping[str, Any],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std of values in [0, 1]: (scale * x - mean) / std is (x - mean / scale) / (std / scale)."""
    scale = 255 * float(facts["rescale_factor"]) if facts["do_rescale"] else 255.0
    scale = 1.0 if abs(scale - 1) < 1e-6 else scale  # 1 / 255 was rounded when it was written
    mean, std = (facts["image_mean"], facts["image_std"]) if facts["do_normalize"] else ((0,) * 3, (1,) * 3)
    return _three(mean, scale), _three(std, scale)


def _three(values: Any, scale: float) -> tuple[float, float, float]:
    red, green, blue = values if isinstance(values, (list, tuple)) else (values,) * 3
    return float(red) / scale, float(green) / scale, float(blue) / scale
