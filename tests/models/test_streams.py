"""Residual sums, read off a computation by value."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from vitscope.models.streams import is_pointwise, is_weights, residuals, root, smallest_holder
from vitscope.trace import trace

DRAW = torch.Generator().manual_seed(2)
SAMPLE = torch.rand(2, 6, 3, 4, generator=DRAW)
A, B = torch.rand(9, 6, generator=DRAW), torch.rand(6, 9, generator=DRAW)


class Calling(nn.Module):
    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, images):
        return self.function(images, *self.parts)


def traced(function, *parts):
    return trace(Calling(function, *parts).eval(), SAMPLE.clone())


def tokens(x):
    return x.flatten(2).mT


def mlp(x):
    return functional.linear(functional.linear(x, A).relu(), B)


def attention(x):
    return functional.scaled_dot_product_attention(x, x, x)


def eager(x):
    return (x @ x.mT).softmax(-1) @ x


def linear(x):
    return x @ (x.mT @ x)


def depthwise(x):
    return functional.conv2d(x, torch.ones(6, 1, 3, 3), padding=1, groups=6)


def dense(x):
    return functional.conv2d(x, torch.ones(6, 6, 3, 3), padding=1)


def pointwise(x):
    return functional.conv2d(functional.conv2d(x, A[:, :, None, None]).relu(), B[:, :, None, None])


KINDS = {
    mlp: "mlp",
    attention: "attention",
    eager: "attention",
    linear: "attention",
    depthwise: "mixing",
    dense: "mixing",
    pointwise: "mlp",
}


@pytest.mark.parametrize("branch", KINDS)
def test_a_branch_is_of_the_kind_that_it_computes(branch):
    start = (lambda x: x * 1) if branch in (depthwise, dense, pointwise) else tokens
    (sum_,) = residuals(traced(lambda x: (y := start(x)) + branch(y)))
    assert sum_.kind == KINDS[branch]


def test_an_mlp_after_a_depthwise_convolution_is_an_mlp_and_after_a_dense_one_is_not():
    (sum_,) = residuals(traced(lambda x: x + pointwise(depthwise(x))))
    assert sum_.kind == "mlp"
    (sum_,) = residuals(traced(lambda x: x + pointwise(dense(x))))
    assert sum_.kind == "mixing"


WRITTEN = {
    "stream first": lambda x: (y := tokens(x)) + mlp(y),
    "branch first": lambda x: mlp(y := tokens(x)) + y,
    "in place": lambda x: (y := tokens(x).clone()).add_(mlp(y)),
    "into the branch": lambda x: mlp(y := tokens(x)).add_(y),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_base_and_branch_are_told_apart_however_they_are_added(name):
    passed = traced(WRITTEN[name])
    (sum_,) = residuals(passed)
    first, last = (op for op in passed.ops if op.name == "linear")
    assert sum_.branch is last.output
    assert root(sum_.base) is passed.values[0] or root(sum_.base).made_by.name == "clone"
    assert sum_.total is passed.calls[0].output
    assert sum_.hidden == (first, last)
    assert sum_.maps == (first, last)


def test_sums_in_a_row_share_one_stream():
    def function(x):
        y = tokens(x)
        y = y + attention(y)
        return y + mlp(y)

    one, other = residuals(traced(function))
    assert (one.kind, other.kind) == ("attention", "mlp")
    assert other.base is one.total


def test_parallel_branches_of_one_stream_are_two_sums():
    passed = traced(lambda x: (y := tokens(x)) + attention(y) + mlp(y))
    one, other = residuals(passed)
    assert (one.kind, other.kind) == ("attention", "mlp")
    assert [op.name for op in other.ops] == ["linear", "relu", "linear"]
    assert other.base is one.total
    assert other.branch is [op for op in passed.ops if op.name == "linear"][-1].output
    assert other.total is passed.calls[0].output


def test_a_stream_that_is_scaled_is_still_the_stream():
    (sum_,) = residuals(traced(lambda x: (y := tokens(x)) * torch.rand(6) + mlp(y)))
    assert (sum_.kind, sum_.base.made_by.name) == ("mlp", "mul")


def test_a_shortcut_with_a_map_is_the_side_that_does_less():
    def block(x):
        return functional.conv2d(x, torch.ones(6, 6, 1, 1)) + dense(dense(x))

    class Block(nn.Module):
        def forward(self, x):
            return block(x)

    (sum_,) = residuals(traced(lambda x, part: part(x * 1), Block()))
    assert [op.name for op in sum_.ops] == ["conv2d", "conv2d"]
    assert sum_.base.made_by.inputs[1].shape == (6, 6, 1, 1)


NO_SUMS = {
    "positions": lambda x: tokens(x) + torch.rand(12, 6),
    "a number": lambda x: tokens(x) + 1,
    "a branch of another shape": lambda x: tokens(x) + tokens(x).mean(1, keepdim=True),
    "itself": lambda x: (y := tokens(x)) + y,
    "a difference": lambda x: (y := tokens(x)) - mlp(y),
}


@pytest.mark.parametrize("name", NO_SUMS)
def test_other_sums_are_no_residual_ones(name):
    assert residuals(traced(NO_SUMS[name])) == []


def test_the_root_of_a_value_is_what_it_is_a_view_of():
    passed = traced(lambda x: x.relu().flatten(2).mT.contiguous().unflatten(1, (3, 4)))
    assert root(passed.calls[0].output) is passed.ops[0].output
    assert root(passed.values[0]) is passed.values[0]


def test_maps_of_each_place_are_told_from_others():
    def function(x):
        functional.linear(tokens(x), A)
        functional.linear(x.flatten(2), torch.rand(12, 12))
        functional.conv2d(x, torch.rand(2, 6, 1, 1))
        functional.conv2d(x, torch.rand(2, 6, 3, 3))
        functional.conv2d(x, torch.rand(2, 6, 1, 1), stride=2)
        return tokens(x) @ tokens(x).mT

    passed = traced(function)
    kinds = [is_pointwise(op) for op in passed.ops if op.name in ("linear", "conv2d", "matmul")]
    assert kinds == [True, False, True, False, False, False]
    assert is_weights(passed.calls[0].output)
    assert not is_weights(passed.values[0])


def test_the_smallest_call_that_holds_several_moments():
    passed = traced(lambda x, part: part(x).exp(), nn.Sequential(nn.ReLU(), nn.Sigmoid()))
    relu, sigmoid, exp = passed.ops
    assert smallest_holder(passed, [relu.time]).path == "parts.0.0"
    assert smallest_holder(passed, [relu.time, sigmoid.time]).path == "parts.0"
    assert smallest_holder(passed, [relu.time, exp.time]).path == ""
