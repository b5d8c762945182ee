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
    from vitscope.compare import compare as compare
    from vitscope.data import images as images
    from vitscope.data.annotations import foregrounds as foregrounds
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
    from vitscope.flow import attention_view as attention_view
    from vitscope.flow import rollout as rollout
    from vitscope.interventions.boxes import drop_boxes as drop_boxes
    from vitscope.interventions.boxes import keep_boxes as keep_boxes
    from vitscope.interventions.depths import dropping_depths as dropping_depths
    from vitscope.interventions.depths import isolation_depths as isolation_depths
    from vitscope.interventions.filters import high_pass as high_pass
    from vitscope.interventions.filters import low_pass as low_pass
    from vitscope.interventions.model import drop_patches_after as drop_patches_after
    from vitscope.interventions.model import head_on_places as head_on_places
    from vitscope.interventions.model import isolate_cls as isolate_cls
    from vitscope.interventions.movements import rotate as rotate
    from vitscope.interventions.movements import shift as shift
    from vitscope.interventions.patches import drop_patches as drop_patches
    from vitscope.interventions.patches import shuffle_patches as shuffle_patches
    from vitscope.interventions.positions import without_positions as without_positions
    from vitscope.interventions.resolution import coarse as coarse
    from vitscope.interventions.units import ablate as ablate
    from vitscope.interventions.units import remove_skip as remove_skip
    from vitscope.interventions.units import scale as scale
    from vitscope.look import look as look
    from vitscope.look.result import Look as Look
    from vitscope.meters.accuracy import Accuracy as Accuracy
    from vitscope.meters.attention import by_head as by_head
    from vitscope.meters.attention import prefix_mass as prefix_mass
    from vitscope.meters.hsic import CKA as CKA
    from vitscope.meters.moments import Moments as Moments
    from vitscope.meters.token_accuracy import TokenAccuracy as TokenAccuracy
    from vitscope.meters.topk import TopK as TopK
    from vitscope.models import load as load
    from vitscope.models.vision_model import Preprocessing as Preprocessing
    from vitscope.models.vision_model import Site as Site
    from vitscope.models.vision_model import VisionModel as VisionModel
    from vitscope.provenance import Provenance as Provenance
    from vitscope.provenance import explain as explain
    from vitscope.report import report as report
    from vitscope.scan import scan as scan
    from vitscope.studies import study as study
    from vitscope.studies.result import Result as Result
    from vitscope.tap import read as read
    from vitscope.variants import Variant as Variant
    from vitscope.variants import scan_variants as scan_variants
    from vitscope.viewer.app import serve as serve
    from vitscope.viewer.export import export as export
    from vitscope.views import global_view as global_view
    from vitscope.views import patch_filters as patch_filters

_HOMES = {
    "Accuracy": "vitscope.meters.accuracy",
    "Address": "vitscope.address",
    "Atlas": "vitscope.atlas.read",
    "CKA": "vitscope.meters.hsic",
    "Dream": "vitscope.dream.result",
    "Look": "vitscope.look.result",
    "Moments": "vitscope.meters.moments",
    "Objective": "vitscope.dream.objectives",
    "Preprocessing": "vitscope.models.vision_model",
    "Provenance": "vitscope.provenance",
    "Recipe": "vitscope.dream.recipe",
    "Result": "vitscope.studies.result",
    "Site": "vitscope.models.vision_model",
    "TokenAccuracy": "vitscope.meters.token_accuracy",
    "TopK": "vitscope.meters.topk",
    "Variant": "vitscope.variants",
    "VisionModel": "vitscope.models.vision_model",
    "VitscopeError": "vitscope.errors",
    "ablate": "vitscope.interventions.units",
    "accentuated": "vitscope.dream.accentuation",
    "attention": "vitscope.dream.heads",
    "attention_view": "vitscope.flow",
    "build": "vitscope.atlas",
    "by_head": "vitscope.meters.attention",
    "caricature": "vitscope.dream.likeness",
    "channel": "vitscope.dream.objectives",
    "compare": "vitscope.compare",
    "direction": "vitscope.dream.objectives",
    "distance": "vitscope.dream.likeness",
    "diverse": "vitscope.dream.diversity",
    "coarse": "vitscope.interventions.resolution",
    "dream": "vitscope.dream",
    "drop_boxes": "vitscope.interventions.boxes",
    "drop_patches": "vitscope.interventions.patches",
    "drop_patches_after": "vitscope.interventions.model",
    "dropping_depths": "vitscope.interventions.depths",
    "explain": "vitscope.provenance",
    "export": "vitscope.viewer.export",
    "foregrounds": "vitscope.data.annotations",
    "global_view": "vitscope.views",
    "head": "vitscope.dream.heads",
    "head_on_places": "vitscope.interventions.model",
    "high_pass": "vitscope.interventions.filters",
    "images": "vitscope.data",
    "interpolate": "vitscope.dream.objectives",
    "inversion": "vitscope.dream.likeness",
    "isolate_cls": "vitscope.interventions.model",
    "isolation_depths": "vitscope.interventions.depths",
    "keep_boxes": "vitscope.interventions.boxes",
    "load": "vitscope.models",
    "look": "vitscope.look",
    "logit": "vitscope.dream.objectives",
    "low_pass": "vitscope.interventions.filters",
    "patch_filters": "vitscope.views",
    "prefix_mass": "vitscope.meters.attention",
    "read": "vitscope.tap",
    "remove_skip": "vitscope.interventions.units",
    "report": "vitscope.report",
    "rollout": "vitscope.flow",
    "rotate": "vitscope.interventions.movements",
    "scale": "vitscope.interventions.units",
    "scan": "vitscope.scan",
    "scan_variants": "vitscope.variants",
    "serve": "vitscope.viewer.app",
    "shift": "vitscope.interventions.movements",
    "shuffle_patches": "vitscope.interventions.patches",
    "study": "vitscope.studies",
    "unit": "vitscope.dream.objectives",
    "verify": "vitscope.atlas.verify",
    "without_positions": "vitscope.interventions.positions",
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
