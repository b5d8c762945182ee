"""Meters: mergeable measurements over a stream of images. `METERS` names them, plugins' included."""

from __future__ import annotations

from vitscope.registry import Registry

METERS = Registry(
    "meter",
    {
        "topk": "vitscope.meters.topk:TopK",
        "moments": "vitscope.meters.moments:Moments",
        "accuracy": "vitscope.meters.accuracy:Accuracy",
        "token_accuracy": "vitscope.meters.token_accuracy:TokenAccuracy",
    },
)
"""Name -> class of the meter. Third parties add theirs by entry points in the group `vitscope.meter`."""
