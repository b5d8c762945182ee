"""Reading a model while it runs, and changing what it computes, leaving no trace; only `trace` hooks too.

Activations are handed to a callback at the moment their site fires and are not kept, so a pass over a
data set needs the memory of one block. Inside `tap` the model is in eval mode with frozen weights. Afterwards
it has the same hooks, mode and `requires_grad` as before, whether the pass ended, failed or stopped early.

Most sites are the input or output of a module. Some lie inside one, where only a function call can be seen
(attention weights inside fused attention, a residual sum): these are read through torch's function mode.

`changed` lets other activations take the place of those at a site, and `rerouted` runs a module another way.
Both act as long as their `with` lasts, in the order in which they were entered, and a tap entered after them
reads what they made.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitscope.arrays import Activations, Pixels
from vitscope.errors import SiteError
from vitscope.models.substitute import first_tensor, substitute, substitute_in_place
from vitscope.models.vision_model import LAYOUTS, Site, VisionModel

OnRead = Callable[[Site, Activations], None]
"""What happens when a site fires."""
Change = Callable[[Activations], Activations]
"""From the activations at a site to those that take their place."""
_Fire = Callable[[Site, Any], Any]
"""What happens when a site fires, given the raw value; what it returns goes on, None for the value itself."""

READERS: ContextVar[int] = ContextVar("readers", default=0)
"""How many readers have the floor, one inside another: what they compute is no part of the pass they read."""


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
    watch = _Watch(inner := [site for site in sites if site.function])
    wanted = {site.name for site in sites}

    def fire(site: Site, value: Any) -> None:
        with _aside():
            on_read(site, as_activations(site, value))
        del missing[site.name]
        if early_exit and not missing:
            raise _Enough

    def run(pixels: Pixels) -> Tensor | None:
        seen.clear()
        missing.update(dict.fromkeys(wanted, 1))
        try:
            with watch if inner else nullcontext():
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
        _check_calls(outer, seen, model.name)
        return first_tensor(output)

    outer = [site for site in sites if not site.function]
    with ExitStack() as stack:
        stack.enter_context(held(model.module))
        stack.enter_context(_listening(model.module, outer, watch, fire=fire, seen=seen))
        yield run


@contextmanager
def changed(model: VisionModel, changes: Mapping[Site, Change]) -> Iterator[None]:
    """Let other activations take the place of those at some sites, in every pass inside the `with`.

    A change may alter the number of images or tokens where what follows allows it. Where a site is what a
    module takes in, its tensor is changed in place, so that whatever else uses it sees the change as well.

    Args:
        model: the model to change.
        changes: given the "image place unit" activations of their site, they return others; gradients pass.

    Raises:
        SiteError: a site whose values are computed from what the model holds there, and not taken from it.
    """
    seen: Counter[tuple[str, str]] = Counter()
    watch = _Watch(inner := [site for site in changes if site.function])
    outer = [site for site in changes if not site.function]

    def fire(site: Site, value: Any) -> Any:
        with _aside():
            activations = as_activations(site, value)
            instead = changes[site](activations)
            if instead is activations:
                return None
            if site.side == "output" and site.function != "setitem":
                return substitute(site, value, instead)
            return substitute_in_place(site, value, instead)

    def begin(*_: Any) -> None:
        seen.clear()
        watch.begin()

    with ExitStack() as stack:
        stack.callback(model.module.register_forward_pre_hook(begin).remove)
        stack.enter_context(_listening(model.module, outer, watch, fire=fire, seen=seen))
        if inner:
            stack.enter_context(watch)
        yield


@contextmanager
def rerouted(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Run a module another way inside the `with`; its hooks see what goes in and what comes out.

    Args:
        module: the module.
        forward: called instead of the module's own, which it is given first, before the module's arguments.
    """
    before = vars(module).get("forward")
    module.forward = partial(forward, module.forward)
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def read(
    model: VisionModel, pixels: Pixels, sites: Sequence[Site]
) -> dict[str, Float[Tensor, "answer place unit"]]:
    """The activations of one batch at a few sites, by name. For data sets use a scan, which keeps nothing."""
    found: dict[str, Activations] = {}

    def keep(site: Site, activations: Activations) -> None:
        found[site.name] = activations.clone()

    with tap(model, sites, on_read=keep) as run:
        run(pixels)
    return found


def as_activations(site: Site, tensor: Any) -> Activations:
    """One rearrangement, from what a module produced, or a function was given, to "image place unit"."""
    if site.derive is None:
        tensor = first_tensor(tensor)
    elif site.function and site.side == "input":
        tensor = site.derive(tensor)
    else:
        tensor = site.derive(first_tensor(tensor))
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
    fast = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    module.requires_grad_(False)
    torch.backends.mha.set_fastpath_enabled(False)  # or its values would depend on whether a mode watches
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for part, mode in modes:
            part.training = mode
        for weight, needs in gradients:
            weight.requires_grad_(needs)


@contextmanager
def _listening(
    module: nn.Module, outer: Sequence[Site], watch: _Watch, *, fire: _Fire, seen: Counter[tuple[str, str]]
) -> Iterator[None]:
    """Fire sites at the input and output of modules, `outer`, and those inside modules that are watched."""
    with ExitStack() as stack:
        for (path, side), group in _by_module(outer).items():
            stack.enter_context(_hook(module.get_submodule(path), (path, side), group, fire, seen))
        stack.enter_context(watch.following(module, fire))
        yield


@contextmanager
def _aside() -> Iterator[None]:
    token = READERS.set(READERS.get() + 1)
    try:
        yield
    finally:
        READERS.reset(token)


@contextmanager
def _hook(
    module: nn.Module,
    point: tuple[str, str],
    sites: Mapping[int, Sequence[Site]],
    fire: _Fire,
    seen: Counter[tuple[str, str]],
) -> Iterator[None]:
    running: list[int] = []  # a module that calls itself begins again before it ends

    def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
        if not seen[point]:
            running.clear()
        seen[point] += 1
        running.append(seen[point])
        if point[1] == "input":
            reached(args or tuple(kwargs.values()))

    def leave(_: nn.Module, __: Any, output: Any) -> Any:
        if point[1] == "output":
            output = reached(output)
        running.pop()
        return output

    def reached(value: Any) -> Any:
        for site in sites.get(running[-1], ()):
            instead = fire(site, value)
            value = value if instead is None else instead
        return value

    with ExitStack() as stack:
        stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(leave).remove)
        yield


def function_name(function: Callable[..., Any]) -> str:
    """The name of a torch function: `x + y`, `x.add_(y)` and `torch.add(x, y)` are all "add"."""
    name = getattr(function, "__name__", "")
    if name == "__get__":  # an attribute such as x.mT
        return str(getattr(getattr(function, "__self__", None), "__name__", ""))
    name = name.strip("_")
    return OPERATORS.get(name, name)


OPERATORS = {
    "iadd": "add",
    "radd": "add",
    "isub": "sub",
    "rsub": "sub",
    "imul": "mul",
    "rmul": "mul",
    "truediv": "div",
    "itruediv": "div",
    "rtruediv": "div",
    "rdiv": "div",
    "divide": "div",
    "true_divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "bmm": "matmul",
    "mm": "matmul",
    "rpow": "pow",
    "concat": "cat",
    "concatenate": "cat",
}
"""Python's names of operators, and second names of functions -> the name used here."""


class _Watch(TorchFunctionMode):
    """Fires sites that lie inside modules, at the n-th call of a function while the module runs."""

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__()
        self._sites = sites
        self._names = {site.function for site in sites}
        self._runs: Counter[str] = Counter()
        self._running: dict[str, list[tuple[int, Counter[str]]]] = defaultdict(list)
        self._fire: _Fire | None = None
        self._reader = 0

    @contextmanager
    def following(self, module: nn.Module, fire: _Fire) -> Iterator[None]:
        """Know which of the modules of these sites are running, and fire the sites."""
        with ExitStack() as stack:
            for path in dict.fromkeys(site.path for site in self._sites):
                part = module.get_submodule(path)
                stack.callback(part.register_forward_pre_hook(partial(self._enter, path)).remove)
                stack.callback(part.register_forward_hook(partial(self._leave, path)).remove)
            self._fire = fire
            yield

    def begin(self) -> None:
        """A new pass begins."""
        self._runs.clear()
        self._running.clear()

    def __enter__(self) -> _Watch:
        self.begin()
        self._reader = READERS.get()
        super().__enter__()  # type: ignore[no-untyped-call,unused-ignore]
        return self

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name, fire = kwargs or {}, function_name(function), self._fire
        if fire is None or name not in self._names or READERS.get() != self._reader:
            return function(*args, **kwargs)
        sites = self._due(name)
        for site in sites:
            if site.side == "input":
                fire(site, (args, kwargs))
        output = function(*args, **kwargs)
        for site in sites:
            if site.side == "output":
                instead = fire(site, args[0] if name == "setitem" else output)
                output = output if instead is None else instead
        return output

    def _due(self, name: str) -> list[Site]:
        """The sites at this call of a function; a module that calls itself is at several."""
        now = set()
        for path, calls in self._running.items():
            for call, turns in calls:
                turns[name] += 1
                now.add((path, call, turns[name]))
        return [
            site for site in self._sites if site.function == name and (site.path, site.call, site.turn) in now
        ]

    def _enter(self, path: str, *_: Any) -> None:
        self._runs[path] += 1
        self._running[path].append((self._runs[path], Counter()))

    def _leave(self, path: str, *_: Any) -> None:
        self._running[path].pop()


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
