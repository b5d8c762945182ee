"""Any `nn.Module` in Python, given a sample input."""

from __future__ import annotations

from torch import Tensor, nn

from vitscope.errors import BadValue
from vitscope.models.vision_model import Bare, Preprocessing


def open_module(
    module: nn.Module,
    sample: Tensor | tuple[int, int] | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    classes: tuple[str, ...] | None = None,
) -> Bare:
    """A module of the user's own.

    Args:
        module: takes "image rgb row column" as `preprocessing` leaves it.
        sample: images "image rgb row column" in [0, 1], or their (rows, columns); it tells the input size.
        preprocessing: what the module wants; left out, images in [0, 1] go in as they are.
        classes: names of the logits.

    Raises:
        BadValue: neither sample nor preprocessing says what size the input has, or they disagree.
    """
    size = _size(sample)
    if preprocessing is None:
        if size is None:
            raise BadValue(
                "a module needs sample=, images 'image rgb row column' in [0, 1] or their (rows, columns),"
                " or a preprocessing: its input size cannot be guessed"
            )
        resize = size[0] if size[0] == size[1] else None
        preprocessing = Preprocessing(size, resize, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    elif size is not None and size != preprocessing.size:
        raise BadValue(f"the sample is {size[0]} x {size[1]} but the preprocessing says {preprocessing.size}")
    return Bare(module.eval(), type(module).__name__, preprocessing, classes)


def _size(sample: Tensor | tuple[int, int] | None) -> tuple[int, int] | None:
    if isinstance(sample, Tensor):
        if sample.ndim != 4 or sample.shape[1] != 3:
            raise BadValue(f"a sample is 'image rgb row column', not of shape {tuple(sample.shape)}")
        return sample.shape[2], sample.shape[3]
    return sample
