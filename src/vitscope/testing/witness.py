"""What a contract compares sites with: one pass of a model as its own modules and functions saw it.

Nothing here knows how sites were found. Tensors are kept by plain hooks, attention maps by standing beside
every softmax, and arithmetic is naive and in float64.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitscope.arrays import Activations, Pixels
from vitscope.models.substitute import first_tensor
from vitscope.models.vision_model import Site, VisionModel
from vitscope.tap import held, read

EXACT = 1e-5
"""How closely sums and maps must hold in float32, relative to the largest value."""
CLOSE = 1e-4
"""The same for attention, which adds up many products."""

Moment = tuple[str, int]
"""A module's path, and which of its calls in one pass, from 1."""


@dataclass
class Record:
    """The modules that ran in one pass, and the tensors of those that were asked for.

    Attributes:
        started: every call of every module, in order.
        finished: how many calls of each module came to their end.
        inputs, outputs: the first tensor of each call, of modules that were asked for.
        extras: the other tensors they were given.
    """

    started: list[Moment] = field(default_factory=list)
    finished: Counter[str] = field(default_factory=Counter)
    inputs: dict[Moment, Tensor] = field(default_factory=dict)
    outputs: dict[Moment, Tensor] = field(default_factory=dict)
    extras: dict[Moment, list[Tensor]] = field(default_factory=dict)

    def tensor(self, site: Site) -> Tensor:
        """The tensor of the module that a site lies on."""
        return (self.inputs if site.side == "input" else self.outputs)[site.path, site.call]


@contextmanager
def recording(module: nn.Module, keep: Callable[[str], bool] = lambda _: False) -> Iterator[Record]:
    """Record the passes of a module; `keep` says of which paths to keep tensors."""
    record, running = Record(), Counter[str]()

    def enter(path: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        running[path] += 1
        record.started.append((path, running[path]))
        if keep(path):
            given = (*args, *kwargs.values())
            _put(record.inputs, (path, running[path]), given)
            more = [value.detach().clone() for value in given[1:] if isinstance(value, Tensor)]
            record.extras[path, running[path]] = more

    def leave(path: str, _: nn.Module, __: Any, output: Any) -> None:
        record.finished[path] += 1
        if keep(path):
            _put(record.outputs, (path, record.finished[path]), output)

    with ExitStack() as stack:
        for path, part in module.named_modules():
            stack.callback(part.register_forward_pre_hook(partial(enter, path), with_kwargs=True).remove)
            stack.callback(part.register_forward_hook(partial(leave, path)).remove)
        yield record


def _put(kept: dict[Moment, Tensor], moment: Moment, given: Any) -> None:
    try:
        kept[moment] = first_tensor(given).detach().clone()
    except Exception:  # what holds no tensor is nothing to compare with
        return


@dataclass
class Witness:
    """One full pass over a few images.

    Attributes:
        pixels: the images, noise in [0, 1].
        found: what every semantic site gives, by name.
        record: what the modules saw.
        output: what the model returns when nothing is attached to it.
    """

    pixels: Pixels
    found: dict[str, Activations]
    record: Record
    output: Tensor

    def __getitem__(self, name: str) -> Tensor:
        return self.found[name].double()

    def __contains__(self, name: str) -> bool:
        return name in self.found


_SEEN: WeakKeyDictionary[VisionModel, Witness] = WeakKeyDictionary()


def witness(model: VisionModel) -> Witness:
    """The full pass of a model; the same pass for all tests of one model."""
    if model not in _SEEN:
        pixels = noise(model, count=2)
        paths = {site.path for site in model.sites}
        inside = tuple(
            f"{site.path}." for site in model.sites if site.name.startswith("stages.") and site.path
        )

        def keep(path: str) -> bool:
            return path in paths or path.startswith(inside)

        with held(model.module), torch.no_grad():
            output = first_tensor(model.module(model.preprocess(pixels)))
            with recording(model.module, keep) as record:
                model.module(model.preprocess(pixels))
            _SEEN[model] = Witness(pixels, read(model, pixels, list(model.sites)), record, output)
    return _SEEN[model]


def noise(model: VisionModel, *, count: int) -> Pixels:
    """Images that differ everywhere, the same every time."""
    return torch.rand(count, 3, *model.preprocessing.size, generator=torch.Generator().manual_seed(5))


def spread_out(tensor: Tensor, axes: str) -> Tensor:
    """By plain indices: from a tensor with these axes to "image place unit"."""
    orders = {
        "image token unit": (0, 1, 2),
        "image unit row column": (0, 2, 3, 1),
        "image row column unit": (0, 1, 2, 3),
        "image unit": (0, 1),
        "image head query key": (0, 2, 1, 3),
    }
    array = tensor.numpy().transpose(orders[axes])
    if axes == "image unit":
        return torch.from_numpy(array[:, None])
    places = (array.shape[1], -1) if axes == "image head query key" else (-1, array.shape[-1])
    return torch.from_numpy(array.reshape(len(array), *places))


def error(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value of the second."""
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-12))


def unexplained(target: Tensor, *, by: Tensor, beside: Tensor | None = None) -> float:
    """What is left of activations after the best scale and shift of every unit of others, or of their norm.

    `by` is taken as it is (LayerScale, batch norm), normalised over the units of each place (layer norm), or
    divided by their root mean square; `beside` may be added in some share, as blends of a stream and a branch
    are. Small means that every place is determined by the same place.
    """
    centred = by - by.mean(-1, keepdim=True)
    options = (by, centred / centred.std(-1, keepdim=True), by / by.square().mean(-1, keepdim=True).sqrt())
    return min(_residue(option, target, beside) for option in options)


def _residue(given: Tensor, target: Tensor, beside: Tensor | None) -> float:
    one, wanted = (part.flatten(0, 1) - part.flatten(0, 1).mean(0) for part in (given, target))
    if len(wanted) < 5:
        return float("inf")  # so few places can always be explained
    if beside is not None:
        other = beside.flatten(0, 1) - beside.flatten(0, 1).mean(0)
        one, wanted = _without(other, one), _without(other, wanted)
    return float(_without(one, wanted).abs().max() / target.abs().max().clamp_min(1e-12))


def _without(one: Tensor, other: Tensor) -> Tensor:
    """What is left of every column of `other` after its share in that of `one`."""
    return other - one * (one * other).sum(0) / one.square().sum(0).clamp_min(1e-30)


def distance(one: tuple[int, int], other: tuple[int, int]) -> int:
    """How many cells apart two cells are, diagonals counted as one."""
    return max(abs(one[0] - other[0]), abs(one[1] - other[1]))


def corners(site: Site) -> list[tuple[int, int]]:
    """Cells off the diagonal."""
    rows, columns = site.grid or (0, 0)
    cells = [(0, columns - 1), (rows - 1, 0), (rows // 3, columns - 1), (rows - 1, columns // 3)]
    return list(dict.fromkeys(cells)) if rows > 2 and columns > 2 else []


def most_moved(model: VisionModel, site: Site, row: int, column: int) -> tuple[int, int]:
    """The cell that moves most, over a few images, when the part under a cell becomes another image's."""
    (rows, columns), (height, width) = site.grid or (1, 1), model.preprocessing.size
    down = slice(row * height // rows, -(-(row + 1) * height // rows))
    right = slice(column * width // columns, -(-(column + 1) * width // columns))
    images = noise(model, count=8)
    changed = images.clone()
    changed[..., down, right] = images.roll(1, 0)[..., down, right]
    with torch.no_grad():
        before, after = (read(model, pixels, [site])[site.name].double() for pixels in (images, changed))
    moved = (after - before)[:, site.prefix_tokens :].norm(dim=-1)
    cell = int((moved / moved.sum(1, keepdim=True)).sum(0).argmax())
    return cell // columns, cell % columns


ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda tensor: tensor,
    functional.relu,
    functional.silu,
    functional.gelu,
    functional.hardswish,
    functional.relu6,
    partial(functional.leaky_relu, negative_slope=0.01),
    partial(functional.leaky_relu, negative_slope=0.1),
)
"""What may follow the residual sum of a CNN's block."""
