"""One recorded pass: calls, functions and values, and what counts as another value."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from vitscope.testing import tiny_vit
from vitscope.trace import past, reaches, trace

SAMPLE = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(1))


class Calling(nn.Module):
    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, images):
        return self.function(images, *self.parts)


def traced(function, *parts, sample=SAMPLE):
    return trace(Calling(function, *parts).eval(), sample.clone())


def names(passed):
    return [op.name for op in passed.ops]


def test_functions_are_named_alike_however_they_are_called():
    def every_way(x):
        x = x + 1
        x = torch.add(x, 1)
        x = x.add(1)
        x += 1
        return 1 + x.add_(1)

    assert names(traced(every_way)) == ["add"] * 6


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x.mT, "mT"),
        (lambda x: x[0, 0].T, "T"),
        (lambda x: 1 - x, "sub"),
        (lambda x: 1 / x, "div"),
        (lambda x: x @ x.mT, "matmul"),
        (lambda x: torch.bmm(x[0], x[0].mT), "matmul"),
        (lambda x: x[0], "getitem"),
        (lambda x: torch.concat([x, x]), "cat"),
    ],
)
def test_operators_have_names(function, name):
    assert names(traced(function))[-1] == name


def test_values_are_numbered_and_know_what_made_them():
    passed = traced(lambda x: x.relu().flatten(2) * torch.ones(24))
    pixels = passed.values[0]
    assert (pixels.number, pixels.shape, pixels.made_by, pixels.from_image) == (0, (2, 3, 4, 6), None, True)
    assert [value.number for value in passed.values] == list(range(len(passed.values)))
    relu, flat, ones, times = passed.ops
    assert relu.inputs == (pixels,)
    assert flat.inputs == (relu.output,)
    assert (ones.inputs, ones.output.from_image, ones.output.layout) == ((), False, None)
    assert times.inputs == (flat.output, ones.output)
    assert times.image_inputs == (flat.output,)
    assert passed.calls[0].input is pixels
    assert passed.calls[0].output is times.output
    assert flat.settings == {1: 2}


def test_what_a_value_was_computed_from_is_known():
    passed = traced(lambda x: (x.relu() + x.exp(), x.sin())[0])
    relu, exp, total, sin = passed.ops
    assert reaches(total.output, relu.output)
    assert reaches(total.output, passed.values[0])
    assert not reaches(relu.output, exp.output)
    assert not reaches(sin.output, relu.output)
    assert set(past(total.output, passed.values[0])) == {relu, exp, total}


def test_changed_in_place_it_is_another_value_of_the_same_places():
    passed = traced(lambda x: x.clone().mul_(2))
    clone, times = passed.ops
    assert times.inputs == (clone.output,)
    assert times.output is not clone.output
    assert times.output.layout.same_places(clone.output.layout)


def test_a_part_assigned_makes_another_value():
    def function(x):
        y = x.clone()
        y[:, 0] = x[:, 1]
        return y

    passed = traced(function)
    clone, part, assigned = passed.ops
    assert assigned.name == "setitem"
    assert assigned.inputs == (clone.output, part.output)
    assert passed.calls[0].output is assigned.output
    assert reaches(assigned.output, part.output)


def test_a_base_changed_through_a_view_is_another_value_without_a_layout():
    def function(x):
        y = x.clone()
        y[:, 0].mul_(2)
        return y

    made = traced(function).calls[0].output
    assert (made.layout, made.made_by, made.from_image) == (None, None, True)


def test_an_input_handed_back_as_it_was_is_no_new_value():
    def function(x, drop):
        return functional.dropout(drop(x).contiguous(), 0.5, False).float()

    passed = traced(function, nn.Dropout(0.5))
    assert passed.calls[0].output is passed.values[0]
    assert passed.ops == ()


def test_every_tensor_of_several_outputs_is_a_value():
    passed = traced(lambda x: x.chunk(3, 1)[1])
    (chunk,) = passed.ops
    assert [value.shape for value in chunk.outputs] == [(2, 1, 4, 6)] * 3
    assert passed.calls[0].output is chunk.outputs[1]
    assert chunk.outputs[2].layout.unit.unique().tolist() == [3]


def test_turns_are_counted_within_each_module():
    def function(x, first, second):
        x = second(first(x.relu()).relu())
        return x.relu()

    inner = Calling(lambda x: x.relu().relu())
    passed = traced(function, inner, inner)
    relus = [(op.within.path, op.within.index, op.turn) for op in passed.ops if op.name == "relu"]
    assert relus == [
        ("", 1, 1),
        ("parts.0", 1, 1),
        ("parts.0", 1, 2),
        ("", 1, 4),
        ("parts.0", 2, 1),
        ("parts.0", 2, 2),
        ("", 1, 7),
    ]


def test_calls_nest_and_ops_lie_inside_them():
    passed = traced(lambda x, a, b: b(a(x)), nn.ReLU(), nn.Sequential(nn.ReLU(), nn.Sigmoid()))
    root, relu, sequence, inner, sigmoid = passed.calls
    assert [call.path for call in passed.calls] == ["", "parts.0", "parts.1", "parts.1.0", "parts.1.1"]
    assert (root.parent, relu.parent, sigmoid.parent) == (None, root, sequence)
    assert [op.within for op in passed.ops] == [relu, inner, sigmoid]
    assert all(op.within.holds(op.time) and root.holds(op.time) for op in passed.ops)
    assert not relu.holds(passed.ops[1].time)
    assert (sequence.input, sequence.output) == (passed.ops[0].output, passed.ops[2].output)


def test_an_input_given_by_name_or_nothing_at_all():
    class Named(nn.Module):
        def forward(self, *, x=None):
            return x

    passed = traced(lambda x, part, empty: (part(x=x), empty())[0], Named(), Named())
    assert passed.calls[1].input is passed.values[0]
    assert (passed.calls[2].input, passed.calls[2].output) == (None, None)
    assert (passed.calls[2].shape_in, passed.calls[2].shape_out) == ((), ())


def test_weights_are_values_that_do_not_come_from_the_image():
    passed = traced(lambda x, part: part(x), nn.Conv2d(3, 5, 1))
    (op,) = passed.ops
    assert [value.shape for value in op.inputs] == [(2, 3, 4, 6), (5, 3, 1, 1), (5,)]
    assert [value.from_image for value in op.inputs] == [True, False, False]


def test_a_pass_leaves_the_same_output_and_needs_no_gradients():
    module = nn.Conv2d(3, 5, 1)
    passed = trace(module, SAMPLE)
    assert passed.calls[0].shape_out == (2, 5, 4, 6)
    assert all(weight.grad is None and weight.requires_grad for weight in module.parameters())


def test_the_meta_device_gives_the_same_trace():
    module = tiny_vit(depth=1, reg_tokens=2).module
    sample = torch.rand(2, 3, 32, 32)
    ours = trace(module, sample)
    theirs = trace(module.to("meta"), sample.to("meta"))
    assert names(ours) == names(theirs)
    assert len(ours.values) == len(theirs.values)
    for one, other in zip(ours.values, theirs.values, strict=True):
        assert (one.shape, one.from_image) == (other.shape, other.from_image)
        assert (one.layout is None) == (other.layout is None)
        if one.layout is not None:
            assert torch.equal(one.layout.place, other.layout.place)
            assert torch.equal(one.layout.unit, other.layout.unit)
            assert (one.layout.source, one.layout.keys) == (other.layout.source, other.layout.keys)
