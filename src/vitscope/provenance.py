"""How a result was made: what every dream, atlas and study carries, and `vitscope explain` prints."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vitscope.errors import BadValue, MissingPath

TEXT_CHUNK = "vitscope"
"""The key of the PNG text chunk that holds a provenance as JSON."""


def versions() -> dict[str, str]:
    """The versions of vitscope and of the libraries whose arithmetic it relies on."""
    found = {}
    for name in ("vitscope", "torch", "torchvision", "timm", "numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


@dataclass(frozen=True)
class Provenance:
    """Everything needed to make a result again.

    Attributes:
        kind: what was made: "dream", "atlas", "study".
        model: the model's full name, such as "timm:vit_tiny_patch16_224".
        weights: fingerprint of the weights, "sha256:...".
        preprocessing: the model's preprocessing, as recorded by `Preprocessing.describe`.
        source: fingerprint of the images, where there were any.
        settings: address, recipe, seed and whatever else the maker was told.
        device: the type of device, such as "cpu".
        versions: library versions.
    """

    kind: str
    model: str
    weights: str
    preprocessing: dict[str, Any]
    source: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    versions: dict[str, str] = field(default_factory=versions)

    def to_json(self) -> str:
        """One line of JSON, keys sorted."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))


def explain(path: str | Path) -> Provenance:
    """Read how a picture, a result or an atlas was made.

    Raises:
        MissingPath: there is no such file.
        BadValue: the file carries no provenance of ours.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "atlas.json"
    if not path.exists():
        raise MissingPath(f"no such file: {path}")
    try:
        if path.suffix.lower() == ".json":
            document = json.loads(path.read_text())
            return Provenance(**document.get("provenance", document))
        from PIL import Image

        with Image.open(path) as image:
            return Provenance.from_json(image.info[TEXT_CHUNK])
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise BadValue(
            f"{path} carries no vitscope provenance (a PNG or JSON that vitscope wrote)"
        ) from error
