"""How far a finished dream can be trusted: its scores under other conditions, and how rough it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.dream.canvases import frequencies
from vitscope.dream.penalties import total_variation

STILL = 1e-6
"""A score that never moves by more than this, relative to its size, belongs to a dead unit."""

HIGH = 0.125
"""Cycles per pixel above which frequencies are high: a quarter of the Nyquist frequency."""


def status(path: Float[Tensor, " step"], *, start: float, clean: float, robust: float) -> str:
    """ "diverged" where a number is not finite, "dead" where the score never moved, else "ok".

    Args:
        path: the mean score step by step, without the warm-up.
        start: the score of the canvas before the first step.
        clean: the score of the finished image.
        robust: its mean score over fresh augmentations.
    """
    if not all(map(math.isfinite, (start, clean, robust, *path.tolist()))):
        return "diverged"
    values = torch.cat([path, path.new_tensor([start, clean])])
    moved = values.max() - values.min() > STILL * values.abs().max()
    return "ok" if moved else "dead"


def picture_facts(pixels: Float[Tensor, "rgb row column"]) -> dict[str, float]:
    """How rough a picture is: `total_variation`, and `high_frequency`, the share of its power (mean colour
    left out) above a quarter of the Nyquist frequency. White noise has 0.95 of it there."""
    return {
        "total_variation": total_variation(pixels[None]).item(),
        "high_frequency": high_frequency(pixels),
    }


def high_frequency(pixels: Float[Tensor, "rgb row column"]) -> float:
    """The share of the power above a quarter of the Nyquist frequency, in [0, 1]; 0 for a flat picture.

    Used as in Ghiasi et al. 2022, section 3, for what they call high-frequency patterns.
    """
    rows, columns = pixels.shape[-2:]
    centred = pixels - pixels.mean(dim=(-2, -1), keepdim=True)
    power = torch.fft.rfft2(centred.double()).abs().square().sum(dim=0)
    twice = torch.full((columns // 2 + 1,), 2.0, dtype=power.dtype)  # a half spectrum shows most only once
    twice[0] = 1.0
    if columns % 2 == 0:
        twice[-1] = 1.0
    power = power * twice
    total = power.sum().item()
    return (power[frequencies((rows, columns)) > HIGH].sum().item() / total) if total else 0.0


def against_natural(score: float, best: Sequence[float], *, images: int) -> dict[str, float | None]:
    """How a dream's score compares with those of natural images.

    Args:
        score: of the dream.
        best: the scores of the best natural images, falling.
        images: how many were looked at.

    Returns:
        `natural_best`; `natural_ratio`, the score in units of it, None where it is not above 0; and
        `natural_percentile`, the share of natural images that the dream beats, 0 to 100, None where it
        beats none of the best.
    """
    above = sum(other >= score for other in best)
    known = above < len(best) or len(best) == images
    return {
        "natural_best": best[0],
        "natural_ratio": score / best[0] if best[0] > 0 else None,
        "natural_percentile": 100 * (1 - above / images) if known else None,
    }


def verdict(trust: Mapping[str, Any]) -> str:
    """The status once natural images are known.

    "weak" instead of "ok" where the best of them excites the unit as much: as it is, or in its mean over the
    same fresh augmentations.
    """
    if trust["status"] != "ok":
        return str(trust["status"])
    beaten = trust.get("natural_percentile", 100) != 100
    shaken = trust.get("natural_robust", -math.inf) >= trust["robust"]
    return "weak" if beaten or shaken else "ok"


def spread(scores: Sequence[float]) -> float | None:
    """How much a score depends on the seed: the standard deviation of the seeds' scores (n - 1 in the
    denominator), relative to their mean; None for one seed, or where the mean is not above 0."""
    values = torch.tensor(scores, dtype=torch.float64)
    mean = values.mean().item() if scores else 0.0
    return values.std().item() / mean if len(scores) > 1 and mean > 0 else None
