"""Sites of modules that call themselves: calls are counted as they begin, and end the other way round."""

import pytest
import torch
from tests.conftest import PIXELS
from torch import nn

from vitscope.models.claims import Plan
from vitscope.models.vision_model import VECTOR, Preprocessing, Site, VisionModel
from vitscope.tap import read
from vitscope.trace import trace

SMALL = PIXELS[:, :, :8, :8]
MEANS = SMALL.mean((2, 3))


class Again(nn.Module):
    """Adds a hundred, and calls itself in between."""

    def forward(self, x, depth=2):
        x = x + 1
        if depth:
            x = self(x * 2, depth - 1)
        return x + 100


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Again()

    def forward(self, images):
        return self.part(images.mean((2, 3)))


MODEL = Model()
BEGUN = [MEANS, 2 * (MEANS + 1), 2 * (2 * (MEANS + 1) + 1)]
"""What each call is given."""
INNERMOST = BEGUN[2] + 1 + 100
MADE = [INNERMOST + 200, INNERMOST + 100, INNERMOST]
"""What each call, in the order in which they begin, hands out."""


def got(**facts):
    plain = Preprocessing((8, 8), None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    model = VisionModel(MODEL, "recursive", preprocessing=plain, sites=())
    return read(model, SMALL, [Site("here", "part", VECTOR, 3, calls=3, **facts)])["here"][:, 0]


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_call_is_read_where_it_begins_and_ends(call):
    assert torch.allclose(got(call=call, side="input"), BEGUN[call - 1])
    assert torch.allclose(got(call=call), MADE[call - 1])


def test_functions_are_counted_in_each_call():
    """Of the first call: its own sum, those of the calls in it, and its own again."""
    sums = [BEGUN[0] + 1, BEGUN[1] + 1, BEGUN[2] + 1, *MADE[::-1]]
    for turn, expected in enumerate(sums, 1):
        assert torch.allclose(got(function="add", turn=turn), expected)
    assert torch.allclose(got(function="add", call=2, turn=4), MADE[1])
    assert torch.allclose(got(function="add", call=3, turn=2), MADE[2])


def test_every_value_of_a_trace_is_read_where_the_trace_says():
    passed = trace(MODEL, SMALL)
    plan = Plan(MODEL, SMALL, passed)
    outputs = [op.output for op in passed.ops if op.name == "add"]
    expected = [BEGUN[0] + 1, BEGUN[1] + 1, BEGUN[2] + 1, *MADE[::-1]]
    for value, wanted in zip(outputs, expected, strict=True):
        assert torch.allclose(plan.read(SMALL, plan.vector("sum", value))[:, 0], wanted)
