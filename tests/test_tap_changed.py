"""Changing what a model computes: in the order entered, read by taps, with gradients, and gone afterwards."""

from contextlib import nullcontext

import pytest
import torch
from tests.conftest import PIXELS, ignore, state_of
from torch import nn

from vitscope.errors import SiteError
from vitscope.models.vision_model import VECTOR, Preprocessing, Site, VisionModel
from vitscope.tap import changed, read, rerouted, tap
from vitscope.testing import tiny_vit

MODEL = tiny_vit()
FFN, MID, OUT = (MODEL.site(f"blocks.1{part}") for part in (".ffn", ".mid", ""))


def run_of(model, pixels=PIXELS):
    with torch.no_grad():
        return model.module(model.preprocess(pixels))


def test_what_is_entered_first_acts_first():
    plain = read(MODEL, PIXELS, [FFN])[FFN.name]
    with changed(MODEL, {FFN: lambda found: found + 1}), changed(MODEL, {FFN: lambda found: found * 3}):
        found = read(MODEL, PIXELS, [FFN])[FFN.name]
    assert torch.allclose(found, (plain + 1) * 3)


@pytest.mark.parametrize("site", [FFN, MID, OUT], ids=lambda site: site.name)
def test_a_tap_reads_the_changed_values_and_what_follows_from_them(site):
    plain = read(MODEL, PIXELS, [site, MODEL.site("logits")])
    with changed(MODEL, {site: lambda found: found * 2}):
        found = read(MODEL, PIXELS, [site, MODEL.site("logits")])
        output = run_of(MODEL)
    assert torch.allclose(found[site.name], plain[site.name] * 2)
    assert torch.allclose(output, found["logits"][:, 0], atol=1e-6)
    assert not torch.allclose(found["logits"], plain["logits"], atol=1e-3)


def test_a_change_that_returns_what_it_was_given_changes_no_bit():
    plain = run_of(MODEL)
    with changed(MODEL, {FFN: lambda found: found, OUT: lambda found: found}):
        assert torch.equal(run_of(MODEL), plain)


def test_gradients_pass_through_a_change():
    pixels, again = PIXELS.clone().requires_grad_(), PIXELS.clone().requires_grad_()
    site = MODEL.site("blocks.2")
    for given, factor in ((pixels, 1.0), (again, 4.0)):
        with (
            changed(MODEL, {site: lambda found, factor=factor: found * factor}),
            tap(MODEL, [site], on_read=lambda _, found: found.sum().backward()) as run,
        ):
            run(given)
    assert pixels.grad.abs().max() > 0
    assert torch.allclose(again.grad, 4 * pixels.grad, atol=1e-5)


@pytest.mark.parametrize("ending", ["success", "early", "error", "unused"])
def test_no_trace_is_left(ending):
    model = tiny_vit()
    model.module.train()
    model.module.blocks[2].requires_grad_(False)
    before = state_of(model.module)

    def change(found):
        if ending == "error":
            raise ValueError("stop")
        return found + 1

    expected = pytest.raises(ValueError, match="stop") if ending == "error" else nullcontext()
    with expected, changed(model, dict.fromkeys([FFN, MID, OUT], change)):
        if ending != "unused":
            read(model, PIXELS, [model.site("blocks.1" if ending == "early" else "logits")])
    assert state_of(model.module) == before


def test_after_a_pass_that_failed_the_next_is_changed_as_well():
    with changed(MODEL, {FFN: lambda found: found * 0}):
        expected = run_of(MODEL)
        with pytest.raises(Exception, match="height"):
            run_of(MODEL, torch.rand(1, 3, 40, 40))
        read(MODEL, PIXELS, [MODEL.site("blocks.0")])
        assert torch.equal(run_of(MODEL), expected)


class Inside(nn.Module):
    """Adds several times, where only function calls can be seen."""

    def forward(self, images):
        x = images.mean((2, 3))
        x = x + 1
        x = x + 10
        y = torch.zeros_like(x)
        y[:, 0] = x[:, 1]
        return y + x


def inside():
    plain = Preprocessing((8, 8), None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return VisionModel(Inside(), "inside", preprocessing=plain, sites=())


def function_site(function, **facts):
    return Site("here", "", VECTOR, 3, function=function, **facts)


SMALL = PIXELS[:, :, :8, :8]
MEANS = SMALL.mean((2, 3))


def finished(x):
    y = torch.zeros_like(x)
    y[:, 0] = x[:, 1]
    return y + x


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        (function_site("add", turn=1), finished((MEANS + 1) * 2 + 10)),
        (function_site("add", turn=2), finished((MEANS + 11) * 2)),
        (function_site("setitem"), 2 * (finished(MEANS + 11) - (MEANS + 11)) + MEANS + 11),
    ],
    ids=["add, first turn", "add, second turn", "setitem"],
)
def test_what_a_function_returns_can_be_changed(site, expected):
    model = inside()
    with changed(model, {site: lambda found: found * 2}):
        assert torch.allclose(run_of(model, SMALL), expected)
        assert torch.allclose(run_of(model, SMALL), expected), "a second pass counts anew"
    assert torch.allclose(run_of(model, SMALL), finished(MEANS + 11))


def test_what_a_function_is_given_can_be_read_but_not_changed():
    site = function_site("add", side="input", derive=lambda given: given[0][0])
    with changed(inside(), {site: lambda found: found * 2}) as _:
        pass
    model = inside()
    with (
        changed(model, {site: lambda found: found * 2}),
        pytest.raises(SiteError, match="here can be read but not changed: it is no tensor of the pass"),
    ):
        run_of(model, SMALL)


def test_functions_that_a_reader_calls_are_no_part_of_the_pass():
    model, first, second = inside(), function_site("mean"), function_site("add", turn=2)

    def busy(_, found):
        assert (found + 1 + 1 + 1).shape == found.shape

    with (
        changed(model, {second: lambda found: found * 2}),
        tap(model, [first], on_read=busy, early_exit=False) as run,
    ):
        assert torch.allclose(run(SMALL), finished((MEANS + 11) * 2))


def test_a_module_runs_another_way_and_its_sites_see_what_goes_in_and_out():
    plain = read(MODEL, PIXELS, [MODEL.site("blocks.0"), MODEL.site("blocks.1")])
    block = MODEL.module.blocks[1]
    with rerouted(block, lambda original, x: x - original(x)):
        found = read(MODEL, PIXELS, [MODEL.site("blocks.0"), MODEL.site("blocks.1")])
    assert torch.equal(found["blocks.0"], plain["blocks.0"])
    assert torch.allclose(found["blocks.1"], plain["blocks.0"] - plain["blocks.1"], atol=1e-5)
    assert "forward" not in vars(block)


def test_ways_to_run_a_module_nest():
    block = MODEL.module.blocks[1]
    plain = read(MODEL, PIXELS, [OUT])[OUT.name]
    with rerouted(block, lambda original, x: original(x) + 1):
        with rerouted(block, lambda original, x: original(x) * 3):
            found = read(MODEL, PIXELS, [OUT])[OUT.name]
        assert torch.allclose(read(MODEL, PIXELS, [OUT])[OUT.name], plain + 1)
    assert torch.allclose(found, (plain + 1) * 3, atol=1e-5)
    assert torch.equal(read(MODEL, PIXELS, [OUT])[OUT.name], plain)


def test_a_change_of_what_is_not_there_any_more_is_an_error():
    site = Site("here", "blocks.1", FFN.axes, 7, grid=(4, 4), prefix_tokens=1)
    with (
        changed(MODEL, {site: ignore}),
        pytest.raises(SiteError, match="here should have 17 places x 7 units but has 17 x 24"),
    ):
        run_of(MODEL)
