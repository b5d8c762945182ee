"""Meters: mergeable measurements over a stream of images. `METERS` names them, plugins' included."""

from __future__ import annotations

from vitscope.registry import Registry

METERS = Registry(
    "meter",
    {
        "topk": "vitscope.meters.topk:TopK",
        "moments": "vitscope.meters.moments:Moments",
        "accuracy": "vitscope.meters.accuracy:Accuracy",
        "attention_distance": "vitscope.meters.attention_distance:AttentionDistance",
        "cka": "vitscope.meters.hsic:CKA",
        "head_grams": "vitscope.meters.head_grams:HeadGrams",
        "predictions": "vitscope.meters.predictions:Predictions",
        "probe_sums": "vitscope.meters.probe_sums:ProbeSums",
        "readout_accuracy": "vitscope.meters.readout_accuracy:ReadoutAccuracy",
        "skips": "vitscope.meters.skips:Skips",
        "token_accuracy": "vitscope.meters.token_accuracy:TokenAccuracy",
    },
)
"""Name -> class of the meter. Third parties add theirs by entry points in the group `vitscope.meter`."""
