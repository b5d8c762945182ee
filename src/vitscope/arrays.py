"""The shapes that pass between floors, as words.

image   one image of a batch        place   one position: a patch, a pixel of a map, a prefix token
unit    one channel, neuron, logit  rgb     red, green, blue
row, column   vertical and horizontal position, from the top left
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Pixels: TypeAlias = Float[Tensor, "image rgb row column"]
"""Images in [0, 1], before the model's own normalisation."""

Activations: TypeAlias = Float[Tensor, "image place unit"]
"""What every site hands out, whatever the family; prefix tokens come first among the places."""

Scores: TypeAlias = Float[Tensor, "image"]
"""One number an image, higher is better; nobody sums them before `dream/ascent.py`."""


def widened(values: Tensor) -> Tensor:
    """At least in float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
