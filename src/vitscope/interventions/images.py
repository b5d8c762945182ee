"""Everything that can be done to images: frozen values for `images.map(...)` and `Variant(images=...)`.

`keep_boxes` and `drop_boxes` work on the picture at its original size, all others on what the model is shown.
A new one is any frozen value with `on_original` or `on_view` (`data.source`).
"""

from vitscope.interventions.boxes import drop_boxes, keep_boxes
from vitscope.interventions.filters import high_pass, low_pass
from vitscope.interventions.movements import rotate, shift
from vitscope.interventions.patches import drop_patches, shuffle_patches
from vitscope.interventions.resolution import coarse

__all__ = [
    "coarse",
    "drop_boxes",
    "drop_patches",
    "high_pass",
    "keep_boxes",
    "low_pass",
    "rotate",
    "shift",
    "shuffle_patches",
]
