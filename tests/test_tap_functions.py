"""Reading sites inside modules: at a function, on its turn, and no trace left on the model."""

import pytest
import torch
from tests.conftest import PIXELS, ignore, state_of
from torch import nn

from vitscope.errors import SiteError
from vitscope.models.vision_model import VECTOR, Preprocessing, Site, VisionModel
from vitscope.tap import read, tap


class Inside(nn.Module):
    """Calls the same functions several times, in itself and in parts that it shares."""

    def __init__(self):
        super().__init__()
        self.part, self.fails = Twice(), False

    def forward(self, images):
        x = images.mean((2, 3)).relu()
        x = self.part(self.part(x)) * 3
        if self.fails:
            raise ValueError("inside")
        y = torch.zeros_like(x)
        y[:, 0] = x[:, 1].relu()
        return y


class Twice(nn.Module):
    def forward(self, x):
        return ((x + 1).relu() + 10).relu()


INSIDE = Inside()


def inside_model(module=INSIDE):
    plain = Preprocessing((8, 8), None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return VisionModel(module, "inside", preprocessing=plain, sites=())


def function_site(function, path="part", name="here", **facts):
    return Site(name, path, VECTOR, 3, function=function, **{"calls": 2, **facts})


SMALL = PIXELS[:, :, :8, :8]
MEANS = SMALL.mean((2, 3))
FUNCTIONS = {
    "add, first turn": (function_site("add"), MEANS + 1),
    "add, second turn": (function_site("add", turn=2), MEANS + 11),
    "add, second call": (function_site("add", call=2), MEANS + 12),
    "add, second turn of the second call": (function_site("add", call=2, turn=2), MEANS + 22),
    "add, input": (
        function_site("add", turn=2, side="input", derive=lambda given: given[0][0]),
        MEANS + 1,
    ),
    "of the whole model": (function_site("add", path="", turn=3, calls=1), MEANS + 12),
    "mean": (function_site("mean", path="", calls=1), MEANS),
    "mul": (function_site("mul", path="", calls=1), 3 * (MEANS + 22)),
    "setitem": (
        function_site("setitem", path="", calls=1),
        torch.stack([3 * (MEANS + 22)[:, 1], torch.zeros(2), torch.zeros(2)], 1),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_site_inside_a_module_fires_at_its_function_on_its_turn(name):
    site, expected = FUNCTIONS[name]
    assert torch.allclose(read(inside_model(), SMALL, [site])["here"][:, 0], expected)


def test_sites_inside_modules_fire_in_forward_order_and_every_pass():
    sites = [
        function_site("mul", path="", calls=1, name="last"),
        Site("part~2", "part", VECTOR, 3, call=2, calls=2),
        function_site("add", call=2, name="third"),
        function_site("relu", path="", calls=1, name="first"),
        function_site("add", turn=2, name="second"),
    ]
    fired = []
    with tap(inside_model(), sites, on_read=lambda site, _: fired.append(site.name)) as run:
        for _ in range(2):
            assert run(SMALL) is None
    assert fired == ["first", "second", "third", "part~2", "last"] * 2


def test_what_a_reader_computes_is_no_part_of_the_pass():
    got = []

    def on_read(_, activations):
        got.append((activations + 0 + 0 + 0).relu())

    sites = [function_site("add", name="a"), function_site("add", call=2, turn=2, name="b")]
    with tap(inside_model(), sites, on_read=on_read, early_exit=False) as run:
        assert torch.equal(run(SMALL), INSIDE(SMALL))
    assert torch.allclose(got[0][:, 0], MEANS + 1)
    assert torch.allclose(got[1][:, 0], MEANS + 22)


def test_gradients_flow_through_sites_inside_modules():
    pixels = SMALL.clone().requires_grad_()
    site = FUNCTIONS["add, second turn of the second call"][0]
    with tap(inside_model(), [site], on_read=lambda _, a: a[1, 0, 2].backward()) as run:
        run(pixels)
    assert pixels.grad[1, 2].sum() == pytest.approx(1)
    assert pixels.grad.abs().sum() == pytest.approx(1)


def test_a_site_inside_a_module_is_read_right_after_a_failed_pass():
    module = Inside()
    site, expected = FUNCTIONS["mul"][0], FUNCTIONS["mul"][1]
    got, before = [], state_of(module)
    last = function_site("setitem", path="", calls=1, name="last")
    with tap(inside_model(module), [site, last], on_read=lambda _, a: got.append(a)) as run:
        module.fails = True
        with pytest.raises(ValueError, match="inside"):
            run(SMALL)
        module.fails = False
        run(SMALL)
    failed, again, _ = got
    assert torch.allclose(failed[:, 0], expected)
    assert torch.allclose(again[:, 0], expected)
    assert state_of(module) == before


@pytest.mark.parametrize("error", [ValueError("stop"), KeyboardInterrupt()])
def test_a_reader_that_fails_inside_a_module_leaves_nothing_behind(error):
    before = state_of(INSIDE)
    site, expected = FUNCTIONS["add, second turn"]

    def on_read(*_):
        raise error

    with pytest.raises(type(error)), tap(inside_model(), [site], on_read=on_read) as run:
        run(SMALL)
    assert state_of(INSIDE) == before
    assert torch.allclose(read(inside_model(), SMALL, [site])["here"][:, 0], expected)
    assert not torch.overrides._get_current_function_mode_stack()


def test_a_function_that_is_not_called_is_an_error():
    site = function_site("softmax", name="nothing")
    with (
        pytest.raises(SiteError, match="nothing did not fire in inside: its module did not run"),
        tap(inside_model(), [site], on_read=ignore) as run,
    ):
        run(SMALL)
