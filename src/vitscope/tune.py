"""Which forms of a pass are fastest here, by a short measurement and never by a guess.

One pass is listened to. Then the functions it called, at the shapes they were called with, are timed in each
of their forms, forward and backward: a few tenths of a second, whatever the model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter, process_time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vitscope.arrays import Pixels
from vitscope.lean import AS_WRITTEN, Forms, Lean
from vitscope.models.vision_model import Site, VisionModel
from vitscope.tap import function_name, tap

GAIN = 0.7
"""Another form is taken if it needs at most this share of the time: what is close is left as it is, or noise
would decide, and a dream made again would not be the same."""

WORTHWHILE = 50_000
"""A call whose tensors hold fewer numbers than this is left as it is: there is nothing to gain."""

SECONDS, ROUNDS = 0.03, 6
"""How long each form is timed, and at least how often."""

Shapes = tuple[tuple[int, ...], ...]


def tune(model: VisionModel, sites: Sequence[Site], pixels: Pixels) -> Forms:
    """The fastest forms of a pass up to these sites, forward and backward, on the model's device.

    bfloat16 is offered for speed alone: whether a whole pass runs in it, and whether its gradient is good
    enough, is for the caller to check. A model that is not float32 is left as it is.

    Args:
        model: the model.
        sites: how far the pass goes.
        pixels: a batch of the size that will be used.
    """
    calls = _listen(model, sites, pixels)
    forms, device = AS_WRITTEN, model.device
    if model.dtype == torch.float32 and "linear" in calls:
        wide = _better(forms, replace(forms, linear="onednn"), calls["linear"], device)
        narrow = _better(forms, replace(forms, products="bfloat16"), calls["linear"], device)
        forms = replace(wide, products=narrow.products)
    if "scaled_dot_product_attention" in calls:
        changed = replace(forms, attention="products")
        forms = _better(forms, changed, calls["scaled_dot_product_attention"], device)
    if "conv2d" in calls:
        forms = _better(forms, replace(forms, patches="linear"), calls["conv2d"], device)
    return forms


@dataclass(frozen=True)
class _Call:
    """A function as a model called it: shapes of its tensors, how many of them, from the first, depend on the
    image, and its other arguments."""

    function: Callable[..., Tensor]
    shapes: Shapes
    moving: int = 1
    settings: tuple[tuple[str, Any], ...] = ()

    def seconds(self, forms: Forms, device: torch.device) -> float:
        """Of one call, forward and backward; infinite where it fails."""
        source = torch.Generator().manual_seed(0)
        tensors = [torch.randn(shape, generator=source).to(device) for shape in self.shapes]
        moving = [tensor.requires_grad_() for tensor in tensors[: self.moving]]
        weights = [torch.nn.Parameter(tensor, requires_grad=False) for tensor in tensors[self.moving :]]
        lean = Lean(forms)

        def once() -> None:
            with lean:
                result = self.function(*moving, *weights, **dict(self.settings))
            slopes = torch.autograd.grad(result.float().sum(), moving)
            slopes[0].sum().item()  # waits for the device

        try:
            return _least_seconds(once, process_time if device.type == "cpu" else perf_counter)
        except RuntimeError:
            return float("inf")


def _least_seconds(once: Callable[[], None], clock: Callable[[], float]) -> float:
    """Of a call: of many the fastest, as whatever else the machine does can only add to it. One to warm up is
    not counted. On a CPU the process's own time is taken. (torch's own timer imports a compiler's set-up,
    which talks on standard error.)"""
    once()
    spent: list[float] = []
    while sum(spent) < SECONDS or len(spent) < ROUNDS:
        begun = clock()
        once()
        spent.append(clock() - begun)
    return min(spent)


def _better(forms: Forms, changed: Forms, calls: Counter[_Call], device: torch.device) -> Forms:
    """The changed forms, if they are clearly faster for the most frequent of some calls."""
    call = calls.most_common(1)[0][0]
    if sum(map(math.prod, call.shapes)) < WORTHWHILE:
        return forms
    return changed if call.seconds(changed, device) < GAIN * call.seconds(forms, device) else forms


def _listen(model: VisionModel, sites: Sequence[Site], pixels: Pixels) -> dict[str, Counter[_Call]]:
    """The calls of functions that have several forms."""
    heard: dict[str, Counter[_Call]] = {}

    class Listener(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name, kwargs = function_name(function), kwargs or {}
            if name in HEARD:
                call = HEARD[name](*args, **kwargs)
                heard.setdefault(name, Counter())[call] += 1
            return function(*args, **kwargs)

    with tap(model, sites, on_read=lambda *_: None) as run, torch.no_grad(), Listener():
        run(pixels)
    return heard


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Call:
    return _Call(F.linear, _shapes(input, weight, bias))


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> _Call:
    return _Call(F.scaled_dot_product_attention, _shapes(query, key, value), 3)


def _convolution(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> _Call:
    named = dict(zip(("stride", "padding", "dilation", "groups"), args, strict=False)) | kwargs
    settings = ((name, tuple(to) if isinstance(to, list) else to) for name, to in sorted(named.items()))
    return _Call(F.conv2d, _shapes(input, weight, bias), 1, tuple(settings))


def _shapes(*tensors: Tensor | None) -> Shapes:
    return tuple(tuple(tensor.shape) for tensor in tensors if tensor is not None)


HEARD: dict[str, Callable[..., _Call]] = {
    "linear": _linear,
    "scaled_dot_product_attention": _attention,
    "conv2d": _convolution,
}
"""Functions that have several forms -> what to keep of a call."""
