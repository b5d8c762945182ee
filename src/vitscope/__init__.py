"""A microscope for vision models: point it at one neuron, or at all of them.

Eight verbs are the whole front door, each with one command of the same name:

>>> import vitscope as vs
>>> model = vs.load("vitscope:vit_mini")
>>> dream = vs.dream(model, "blocks.3.ffn:40")

Names are imported on first use (PEP 562), so that `import vitscope` and `vitscope --help` do not wait for
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitscope.address import Address as Address
    from vitscope.atlas import build as build
    from vitscope.atlas.read import Atlas as Atlas
    from vitscope.atlas.verify import verify as verify
    from vitscope.data import images as images
    from vitscope.dream import dream as dream
    from vitscope.dream.accentuation import accentuated as accentuated
    from vitscope.dream.diversity import diverse as diverse
    from vitscope.dream.heads import attention as attention
    from vitscope.dream.heads import head as head
    from vitscope.dream.likeness import caricature as caricature
    from vitscope.dream.likeness import distance as distance
    from vitscope.dream.likeness import inversion as inversion
    from vitscope.dream.objectives import Objective as Objective
    from vitscope.dream.objectives import channel as channel
    from vitscope.dream.objectives import direction as direction
    from vitscope.dream.objectives import interpolate as interpolate
    from vitscope.dream.objectives import logit as logit
    from vitscope.dream.objectives import unit as unit
    from vitscope.dream.recipe import Recipe as Recipe
    from vitscope.dream.result import Dream as Dream
    from vitscope.errors import VitscopeError as VitscopeError
    from vitscope.meters.attention import by_head as by_head
    from vitscope.meters.attention import prefix_mass as prefix_mass
    from vitscope.meters.moments import Moments as Moments
    from vitscope.meters.topk import TopK as TopK
    from vitscope.models import load as load
    from vitscope.models.vision_model import Preprocessing as Preprocessing
    from vitscope.models.vision_model import Site as Site
    from vitscope.models.vision_model import VisionModel as VisionModel
    from vitscope.provenance import Provenance as Provenance
    from vitscope.provenance import explain as explain
    from vitscope.scan import scan as scan
    from vitscope.tap import read as read
    from vitscope.viewer.app import serve as serve

_HOMES = {
    "Address": "vitscope.address",
    "Atlas": "vitscope.atlas.read",
    "Dream": "vitscope.dream.result",
    "Moments": "vitscope.meters.moments",
    "Objective": "vitscope.dream.objectives",
    "Preprocessing": "vitscope.models.vision_model",
    "Provenance": "vitscope.provenance",
    "Recipe": "vitscope.dream.recipe",
    "Site": "vitscope.models.vision_model",
    "TopK": "vitscope.meters.topk",
    "VisionModel": "vitscope.models.vision_model",
    "VitscopeError": "vitscope.errors",
    "accentuated": "vitscope.dream.accentuation",
    "attention": "vitscope.dream.heads",
    "build": "vitscope.atlas",
    "by_head": "vitscope.meters.attention",
    "caricature": "vitscope.dream.likeness",
    "channel": "vitscope.dream.objectives",
    "direction": "vitscope.dream.objectives",
    "distance": "vitscope.dream.likeness",
    "diverse": "vitscope.dream.diversity",
    "dream": "vitscope.dream",
    "explain": "vitscope.provenance",
    "head": "vitscope.dream.heads",
    "images": "vitscope.data",
    "interpolate": "vitscope.dream.objectives",
    "inversion": "vitscope.dream.likeness",
    "load": "vitscope.models",
    "logit": "vitscope.dream.objectives",
    "prefix_mass": "vitscope.meters.attention",
    "read": "vitscope.tap",
    "scan": "vitscope.scan",
    "serve": "vitscope.viewer.app",
    "unit": "vitscope.dream.objectives",
    "verify": "vitscope.atlas.verify",
}
"""Public name -> the module that holds it."""

__all__ = [
    *sorted(_HOMES),
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vitscope' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
