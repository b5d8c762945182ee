"""One pass of a model, recorded: every module called, every torch function, and where each tensor lies.

It runs under hooks and torch's function mode and leaves nothing behind. Tensors are not kept, only their
shapes, which value came from which, and their layouts; so it also runs on the meta device, without weights.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from vitscope.errors import SiteError
from vitscope.models.layout import Layout, Shape, of_map, tensors_in
from vitscope.models.layout_rules import follow
from vitscope.models.layout_step import Step
from vitscope.models.substitute import first_tensor
from vitscope.tap import function_name, held


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor of the pass, at one moment: changed in place, it is another value.

    Attributes:
        number: in order of creation, from 0, the pixels.
        shape: of the tensor.
        layout: where its elements lie, None if that is not known.
        made_by: the function call that returned it; None for pixels, weights and what was made unseen.
        from_image: whether it depends on the pixels.
    """

    number: int
    shape: Shape
    layout: Layout | None = field(repr=False)
    made_by: Op | None = field(repr=False)
    from_image: bool


@dataclass(eq=False)
class Op:
    """One call of a torch function.

    Attributes:
        name: of the function, as `tap.function_name` has it.
        time: when it returned, on the clock of the calls.
        inputs: the values among its arguments, in order.
        within: the innermost module call it was made in.
        turn: which call of this function while that module runs, from 1.
        outputs: the values it returned.
        settings: its arguments that are plain numbers, text or flags, by position or name.
    """

    name: str
    time: int
    inputs: tuple[Value, ...]
    within: Call
    turn: int
    settings: dict[int | str, Any] = field(repr=False)
    outputs: tuple[Value, ...] = field(default=(), repr=False)

    @property
    def output(self) -> Value:
        """The first value it returned."""
        return self.outputs[0]

    @property
    def image_inputs(self) -> tuple[Value, ...]:
        """The inputs that depend on the pixels."""
        return tuple(value for value in self.inputs if value.from_image)


@dataclass(eq=False)
class Call:
    """One call of one module.

    Attributes:
        path: the module's path, "" for the whole model.
        index: which call of this module it is, from 1.
        start, end: when the call began and ended, counted in events of the pass; nested calls lie inside.
        parent: the call it was made in.
        input, output: its first input and first output tensor; None where there is none.
    """

    path: str
    index: int
    start: int
    parent: Call | None
    input: Value | None
    end: int = 0
    output: Value | None = None

    def holds(self, time: int) -> bool:
        """Whether something happened during this call."""
        return self.start < time < self.end

    @property
    def shape_in(self) -> Shape:
        """Shape of the first input tensor; empty where there is none."""
        return self.input.shape if self.input else ()

    @property
    def shape_out(self) -> Shape:
        """Shape of the first output tensor; empty where there is none."""
        return self.output.shape if self.output else ()

    def __repr__(self) -> str:
        return f"Call({self.path!r}, {self.shape_in} -> {self.shape_out})"


@dataclass(frozen=True)
class Trace:
    """All that happened in one pass, in order: `calls` by their beginning, `ops` by their end."""

    calls: tuple[Call, ...]
    ops: tuple[Op, ...]
    values: tuple[Value, ...]

    def during(self, call: Call) -> tuple[Op, ...]:
        """What happened during a call, in order."""
        first, last = (bisect(self.ops, time, key=lambda op: op.time) for time in (call.start, call.end))
        return self.ops[first:last]


def reaches(value: Value, origin: Value) -> bool:
    """Whether a value was computed from another."""
    return value is origin or any(origin in op.inputs for op in past(value, origin))


def past(value: Value, origin: Value) -> Iterator[Op]:
    """The functions that a value was made by, back to those that came before `origin`."""
    seen: set[Op] = set()
    front = [value]
    while front:
        op = front.pop().made_by
        if op and op not in seen and op.output.number > origin.number:
            seen.add(op)
            yield op
            front.extend(given for given in op.inputs if given.number >= origin.number)


def trace(module: nn.Module, sample: Tensor) -> Trace:
    """Run a module once on a sample of at least two images and record the pass.

    The sample is what the module itself takes (already normalised). Nothing is left on the module.
    """
    recorder = _Recorder(module, sample)
    with ExitStack() as stack, held(module), torch.no_grad():
        for part in recorder.names:
            stack.callback(part.register_forward_pre_hook(recorder.enter, with_kwargs=True).remove)
            stack.callback(part.register_forward_hook(recorder.leave).remove)
        with recorder:
            module(sample)
    calls = sorted(recorder.calls, key=lambda call: call.start)
    return Trace(tuple(calls), tuple(recorder.ops), tuple(recorder.values))


class _Recorder(TorchFunctionMode):
    """Numbers the tensors of a pass, by identity and version, and writes down what is done with them."""

    def __init__(self, module: nn.Module, sample: Tensor) -> None:
        super().__init__()
        self.names = {part: path for path, part in module.named_modules()}
        self.calls: list[Call] = []
        self.ops: list[Op] = []
        self.values: list[Value] = []
        self._known: MutableMapping[Tensor, tuple[int, Value]] = WeakTensorKeyDictionary()
        self._clock = 0
        self._open: list[Call] = []
        self._runs: Counter[str] = Counter()
        self._turns: list[Counter[str]] = []
        layout = of_map(tuple(sample.shape), source=0) if sample.ndim == 4 else None
        self._note(sample, layout, made_by=None, from_image=True)

    def enter(self, part: nn.Module, args: Any, kwargs: Any) -> None:
        path = self.names[part]
        self._runs[path] += 1
        given = self._first(args or tuple(kwargs.values()))
        parent = self._open[-1] if self._open else None
        self._open.append(Call(path, self._runs[path], self._tick(), parent, given))
        self._turns.append(Counter())

    def leave(self, _: nn.Module, __: Any, output: Any) -> None:
        call = self._open.pop()
        self._turns.pop()
        call.output, call.end = self._first(output), self._tick()
        self.calls.append(call)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, function_name(function)
        for turns in self._turns:
            turns[name] += 1
        before = [(tensor, self.value(tensor)) for tensor in tensors_in((args, kwargs))]
        versions = {id(tensor): tensor._version for tensor, _ in before}
        output = function(*args, **kwargs)
        made = [
            tensor
            for tensor in tensors_in(output)
            if versions.get(id(tensor)) != tensor._version  # an input handed back as it was is no new value
        ]
        if name == "setitem":
            made = [args[0]]
        if made and self._open:
            known = {id(tensor): value for tensor, value in before}
            step = Step(
                *(name, function, args, kwargs, made[0], len(self.values)),
                layout=lambda tensor: known[id(tensor)].layout,
                made_from=lambda one, other: reaches(known[id(one)], known[id(other)]),
                from_image=lambda tensor: known[id(tensor)].from_image,
            )
            self._record(self._op(name, before, args, kwargs), step, made)
        return output

    def value(self, tensor: Tensor) -> Value:
        """The value that a tensor is now; a new one where it was not seen made, or was changed unseen."""
        if tensor not in self._known:
            return self._note(tensor, None, made_by=None, from_image=False)
        version, value = self._known[tensor]
        if version != tensor._version:
            return self._note(tensor, None, made_by=None, from_image=value.from_image)
        return value

    def _op(self, name: str, before: Sequence[tuple[Tensor, Value]], args: Any, kwargs: Any) -> Op:
        plain = {**dict(enumerate(args)), **kwargs}
        return Op(
            name,
            self._tick(),
            tuple(value for _, value in before),
            self._open[-1],
            self._turns[-1][name],
            {key: value for key, value in plain.items() if isinstance(value, (int, float, str, bool, tuple))},
        )

    def _record(self, op: Op, step: Step, made: Sequence[Tensor]) -> None:
        self.ops.append(op)
        from_image = any(value.from_image for value in op.inputs)
        found = follow(step) if from_image else None
        layouts = [*found] if isinstance(found, Sequence) else [found]
        layouts += [None] * (len(made) - len(layouts))
        op.outputs = tuple(
            self._note(tensor, fitting(layout, tensor), made_by=op, from_image=from_image)
            for tensor, layout in zip(made, layouts, strict=False)
        )

    def _note(self, tensor: Tensor, layout: Layout | None, *, made_by: Op | None, from_image: bool) -> Value:
        value = Value(len(self.values), tuple(tensor.shape), layout, made_by, from_image)
        self.values.append(value)
        self._known[tensor] = (tensor._version, value)
        return value

    def _first(self, given: Any) -> Value | None:
        try:
            return self.value(first_tensor(given))
        except SiteError:
            return None

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def fitting(layout: Layout | None, tensor: Tensor) -> Layout | None:
    """The layout if it is one of a tensor of this shape."""
    return layout if layout is not None and layout.shape == tuple(tensor.shape) else None
