"""The only file that touches a model's hooks: push-style reading with early exit, leaving no trace.

Activations are handed to a callback at the moment their site fires and are not kept, so a pass over a
data set needs the memory of one block. Inside `tap` the model is in eval mode with frozen weights. Afterwards
it has the same hooks, mode and `requires_grad` as before, whether the pass ended, failed or stopped early.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vitscope.arrays import Activations, Pixels
from vitscope.errors import SiteError
from vitscope.models.vision_model import LAYOUTS, Site, VisionModel

OnRead = Callable[[Site, Activations], None]
"""What happens when a site fires."""


class _Enough(BaseException):
    """Raised in a hook when every site asked for has fired; never leaves this file."""


@contextmanager
def tap(
    model: VisionModel, sites: Sequence[Site], *, on_read: OnRead, early_exit: bool = True
) -> Iterator[Callable[[Pixels], Tensor | None]]:
    """Read sites while the forward pass produces them.

    Args:
        model: the model to read.
        sites: what to read.
        on_read: called with the site and its "image place unit" activations, in forward order. They are only
            valid during the call: later layers may overwrite them in place.
        early_exit: stop after the last of the sites has fired.

    Yields:
        A function that runs the model on pixels in [0, 1] and returns its output, or None if stopped.

    Raises:
        SiteError: a site did not fire in a pass, or its module ran more often than the site says.
    """
    missing: Counter[str] = Counter()
    seen: Counter[tuple[str, str]] = Counter()
    wanted = {site.name for site in sites}

    def fire(site: Site, tensor: Any) -> None:
        on_read(site, as_activations(site, tensor))
        del missing[site.name]
        if early_exit and not missing:
            raise _Enough

    def run(pixels: Pixels) -> Tensor | None:
        seen.clear()
        missing.update(dict.fromkeys(wanted, 1))
        try:
            output = model.module(model.preprocess(pixels))
        except _Enough:
            return None
        finally:
            unread = set(missing)
            missing.clear()
        if unread:
            raise SiteError(
                f"{', '.join(sorted(unread))} did not fire in {model.name}: its module did not run"
            )
        _check_calls(sites, seen, model.name)
        return _tensor(output)

    with ExitStack() as stack:
        stack.enter_context(held(model.module))
        for (path, side), group in _by_module(sites).items():
            stack.enter_context(_hook(model.module.get_submodule(path), (path, side), group, fire, seen))
        yield run


def read(model: VisionModel, pixels: Pixels, sites: Sequence[Site]) -> dict[str, Activations]:
    """The activations of one batch at a few sites, by name. For data sets use a scan, which keeps nothing."""
    found: dict[str, Activations] = {}

    def keep(site: Site, activations: Activations) -> None:
        found[site.name] = activations.clone()

    with tap(model, sites, on_read=keep) as run:
        run(pixels)
    return found


def as_activations(site: Site, tensor: Any) -> Activations:
    """One rearrangement, from what a module produced to "image place unit"."""
    tensor = _tensor(tensor)
    if site.derive is not None:
        tensor = site.derive(tensor)
    if tensor.ndim != len(site.axes.split()):
        raise SiteError(f"{site.name} should have axes {site.axes!r} but has shape {tuple(tensor.shape)}")
    activations: Tensor = rearrange(tensor, LAYOUTS[site.axes])
    places, units = activations.shape[1:]
    if units != site.units or places != site.places:
        raise SiteError(
            f"{site.name} should have {site.places} places x {site.units} units but has {places} x {units}"
        )
    return activations


@contextmanager
def held(module: nn.Module) -> Iterator[None]:
    """The module in eval mode with frozen weights, and afterwards exactly as it was."""
    modes = [(part, part.training) for part in module.modules()]
    gradients = [(weight, weight.requires_grad) for weight in module.parameters()]
    module.eval()
    module.requires_grad_(False)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for weight, needs in gradients:
            weight.requires_grad_(needs)


@contextmanager
def _hook(
    module: nn.Module,
    point: tuple[str, str],
    sites: Mapping[int, Sequence[Site]],
    fire: Callable[[Site, Any], None],
    seen: Counter[tuple[str, str]],
) -> Iterator[None]:
    def reached(tensor: Any) -> None:
        seen[point] += 1
        for site in sites.get(seen[point], ()):
            fire(site, tensor)

    if point[1] == "input":
        handle = module.register_forward_pre_hook(
            lambda _, args, kwargs: reached(args or tuple(kwargs.values())), with_kwargs=True
        )
    else:
        handle = module.register_forward_hook(lambda _, __, output: reached(output))
    try:
        yield
    finally:
        handle.remove()


def _by_module(sites: Sequence[Site]) -> dict[tuple[str, str], dict[int, list[Site]]]:
    table: dict[tuple[str, str], dict[int, list[Site]]] = defaultdict(lambda: defaultdict(list))
    for site in dict.fromkeys(sites):
        table[site.path, site.side][site.call].append(site)
    return table


def _check_calls(sites: Sequence[Site], seen: Counter[tuple[str, str]], model: str) -> None:
    for site in sites:
        ran = seen[site.path, site.side]
        if ran != site.calls:
            raise SiteError(
                f"{site.name}: {site.path or 'the model'} ran {ran} times in one pass of {model}, "
                f"not {site.calls}; name the call you mean with ~n"
            )


def _tensor(value: Any) -> Tensor:
    """The tensor in a module's input or output: itself, or the first in a tuple, list or mapping."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)) and value:
        return _tensor(value[0])
    raise SiteError(f"expected a tensor, found {type(value).__name__}")


@dataclass(frozen=True)
class Call:
    """One call of one module in a dry run; what the site finder looks at.

    Attributes:
        path: the module's path, "" for the whole model.
        index: which call of this module it is, from 1.
        start, end: when the call began and ended, counted in events of the pass; nested calls lie inside.
        input, output: shapes of the first input tensor and the first output tensor; None where there is none.
        reads, writes: the storage addresses of the same tensors, so that wiring can be followed.
    """

    path: str
    index: int
    start: int
    end: int
    input: tuple[int, ...] | None
    output: tuple[int, ...] | None
    reads: int
    writes: int


def trace(module: nn.Module, sample: Tensor) -> tuple[Call, ...]:
    """Run the module once on a sample and record every call, in the order the calls began.

    The sample is what the module itself takes (already normalised). Nothing is left on the module.
    """
    names = {part: path for path, part in module.named_modules()}
    clock = iter(range(1 << 40))
    counts: Counter[str] = Counter()
    open_calls: list[tuple[str, int, int, Any]] = []
    calls: list[Call] = []
    alive: list[Any] = []  # keeps every tensor, so that no address is used twice

    def enter(part: nn.Module, args: Any, kwargs: Any) -> None:
        path = names[part]
        counts[path] += 1
        open_calls.append((path, counts[path], next(clock), args or tuple(kwargs.values())))

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        path, index, start, given = open_calls.pop()
        (shape_in, reads), (shape_out, writes) = _facts(given), _facts(output)
        alive.append((given, output))
        calls.append(Call(path, index, start, next(clock), shape_in, shape_out, reads, writes))

    with ExitStack() as stack, held(module), torch.no_grad():
        for part in names:
            stack.callback(part.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(part.register_forward_hook(leave).remove)
        module(sample)
    return tuple(sorted(calls, key=lambda call: call.start))


def _facts(value: Any) -> tuple[tuple[int, ...] | None, int]:
    try:
        tensor = _tensor(value)
    except SiteError:
        return None, 0
    return tuple(tensor.shape), tensor.data_ptr()
