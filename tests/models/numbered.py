"""An image whose elements carry their own place and unit, and where a function moves them."""

import torch
from doubles import Calling
from torch import Tensor

from vitscope.models.layout import PREFIXES
from vitscope.trace import trace

IMAGES, RGB, ROWS, COLUMNS = 2, 3, 4, 6
CELLS = ROWS * COLUMNS
SPAN = CELLS + PREFIXES
NUMBERED = torch.arange(1, 1 + IMAGES * RGB * CELLS).view(IMAGES, RGB, ROWS, COLUMNS).float()
"""An image whose every value says which it is; 0 stands for padding."""


def layout_of(function, sample: Tensor = NUMBERED):
    return trace(Calling(function), sample.clone()).calls[0].output.layout


def carried(function) -> tuple[Tensor, Tensor]:
    """Place and unit of every element, as their values say after they were moved."""
    with torch.no_grad():
        value = function(NUMBERED.clone()).long()
    index = value - 1
    image, unit, cell = index // (RGB * CELLS), index // CELLS % RGB, index % CELLS
    return torch.where(value > 0, 1 + image * SPAN + cell, 0), torch.where(value > 0, 1 + unit, 0)


def assert_carried(layout, function) -> None:
    place, unit = carried(function)
    assert torch.equal(layout.place.long(), place)
    assert torch.equal(layout.unit.long(), unit)


def tokens(images: Tensor) -> Tensor:
    return images.flatten(2).mT
