"""Reading sites: push-style, early exit, and no trace left on the model."""

from collections import defaultdict
from contextlib import nullcontext

import pytest
import torch
from tests.conftest import PIXELS, ignore, state_of
from torch import nn

from vitscope.errors import SiteError
from vitscope.models import load
from vitscope.models.vision_model import MAP, PATTERN, TOKENS, VECTOR, Site
from vitscope.tap import as_activations, held, read, tap
from vitscope.testing import tiny_cnn, tiny_vit
from vitscope.trace import trace

MODEL = tiny_vit()


@pytest.fixture
def mixed():
    """A model with modes and gradients set differently from part to part."""
    model = tiny_vit()
    model.module.train()
    model.module.blocks[1].eval()
    model.module.blocks[2].requires_grad_(False)
    return model


def test_reading_gives_image_place_unit():
    got = read(MODEL, PIXELS, [MODEL.site("blocks.1.ffn"), MODEL.site("logits")])
    assert got["blocks.1.ffn"].shape == (2, 17, 96)
    assert got["logits"].shape == (2, 1, 10)


def test_sites_fire_in_forward_order_whatever_the_order_asked():
    fired = []
    sites = list(MODEL.sites("blocks.*"))
    with tap(MODEL, sites[::-1], on_read=lambda site, _: fired.append(site.name)) as run:
        run(PIXELS)
    assert fired == ["blocks.0", "blocks.1", "blocks.2"]


def test_a_full_pass_returns_what_the_model_returns():
    with torch.no_grad(), tap(MODEL, [MODEL.site("embed")], on_read=ignore, early_exit=False) as run:
        assert torch.equal(run(PIXELS), MODEL.module(MODEL.preprocess(PIXELS)))


@pytest.mark.parametrize(("early", "blocks"), [(True, [0, 1]), (False, [0, 1, 2])])
def test_an_early_exit_is_bit_equal_and_runs_no_later_block(early, blocks):
    model, ran, got = tiny_vit(), [], []
    for index, block in enumerate(model.module.blocks):
        block.norm1.forward = lambda x, index=index, norm=block.norm1: (
            ran.append(index) or type(norm).forward(norm, x)
        )
    with tap(
        model, [model.site("blocks.1.attn")], on_read=lambda _, a: got.append(a), early_exit=early
    ) as run:
        output = run(PIXELS)
    assert ran == blocks
    assert (output is None) == early
    assert torch.equal(got[0], read(MODEL, PIXELS, [MODEL.site("blocks.1.attn")])["blocks.1.attn"])


def test_an_early_exit_waits_for_every_site():
    fired = []
    sites = [MODEL.site("blocks.0"), MODEL.site("blocks.2.ffn")]
    with tap(MODEL, sites, on_read=lambda site, _: fired.append(site.name)) as run:
        for _ in range(3):
            run(PIXELS)
    assert fired == ["blocks.0", "blocks.2.ffn"] * 3


@pytest.mark.parametrize("ending", ["success", "early", "error", "interrupt", "unused"])
def test_no_trace_is_left(mixed, ending):
    before = state_of(mixed.module)
    wrong = {"error": ValueError("stop"), "interrupt": KeyboardInterrupt()}.get(ending)

    def on_read(site, activations):
        if wrong:
            raise wrong

    expected = pytest.raises(type(wrong)) if wrong else nullcontext()
    sites = [mixed.site("blocks.1.ffn")]
    with expected, tap(mixed, sites, on_read=on_read, early_exit=ending == "early") as run:
        if ending != "unused":
            run(PIXELS)
    assert state_of(mixed.module) == before


def test_no_trace_is_left_after_a_failure_inside_the_model(mixed):
    before = state_of(mixed.module)
    with pytest.raises(Exception, match="height"), tap(mixed, [mixed.site("norm")], on_read=ignore) as run:
        run(torch.rand(1, 3, 40, 40))
    assert state_of(mixed.module) == before


def test_a_failed_pass_does_not_spoil_the_next():
    failures = iter([True, False])
    got = []

    def on_read(site, activations):
        if next(failures):
            raise ValueError("once")
        got.append(site.name)

    with tap(MODEL, [MODEL.site("blocks.0")], on_read=on_read) as run:
        with pytest.raises(ValueError, match="once"):
            run(PIXELS)
        run(PIXELS)
    assert got == ["blocks.0"]


def test_a_trace_leaves_no_trace(mixed):
    before = state_of(mixed.module)
    assert trace(mixed.module, PIXELS).calls[0].path == ""
    assert state_of(mixed.module) == before
    with pytest.raises(Exception, match="height"):
        trace(mixed.module, torch.rand(2, 3, 40, 40))
    assert state_of(mixed.module) == before


def test_gradients_reach_the_pixels_and_no_weight(mixed):
    before = state_of(mixed.module)
    pixels = PIXELS.clone().requires_grad_()
    scores = []
    with tap(
        mixed, [mixed.site("blocks.2.ffn")], on_read=lambda _, a: scores.append(a[:, :, 5].sum())
    ) as run:
        run(pixels)
        scores[0].backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    assert state_of(mixed.module) == before
    assert all(weight.grad is None for weight in mixed.module.parameters())


def test_it_works_under_autocast():
    sites = [MODEL.site("blocks.1.ffn"), MODEL.site("blocks.1.attn.pattern")]
    exact = read(MODEL, PIXELS, sites)
    with torch.autocast("cpu", torch.bfloat16):
        got = read(MODEL, PIXELS, sites)
    for name, activations in exact.items():
        assert (got[name].float() - activations).abs().max() < 0.1 * activations.abs().max()


def test_fault_049_a_model_left_in_train_mode_reads_the_same_twice():
    model = tiny_vit(drop_rate=0.5, proj_drop_rate=0.5)
    model.module.train()
    site = model.site("blocks.2")
    assert torch.equal(read(model, PIXELS, [site])["blocks.2"], read(model, PIXELS, [site])["blocks.2"])
    assert model.module.training


class Moody(nn.Module):
    """Runs its shared map as often as it is told, and may skip the other."""

    def __init__(self):
        super().__init__()
        self.shared, self.other, self.times, self.skips = nn.Linear(12, 12), nn.Linear(12, 12), 2, False

    def forward(self, images):
        x = images.mean((2, 3)).repeat(1, 4)
        for _ in range(self.times):
            x = self.shared(x).relu()
        return x if self.skips else self.other(x)


def test_fault_051_a_module_that_runs_twice_is_listed_call_by_call():
    model = load(Moody(), sample=(8, 8), device="cpu")
    got = read(model, PIXELS, [model.site("shared~1"), model.site("shared~2")])
    again = model.module.shared(got["shared~1"].relu())
    assert torch.allclose(again, got["shared~2"])


def test_fault_051_a_module_that_runs_more_often_than_its_site_says_is_an_error():
    model = load(Moody(), sample=(8, 8), device="cpu")
    site = model.site("shared~2")
    model.module.times = 3
    with (
        pytest.raises(SiteError, match=r"shared~2: shared ran 3 times in one pass of Moody, not 2"),
        tap(model, [site], on_read=ignore, early_exit=False) as run,
    ):
        run(PIXELS)


def test_fault_051_a_site_that_does_not_fire_is_an_error_not_zeros():
    model = load(Moody(), sample=(8, 8), device="cpu")
    site = model.site("other")
    model.module.skips = True
    with (
        pytest.raises(SiteError, match="other did not fire in Moody: its module did not run"),
        tap(model, [site], on_read=ignore) as run,
    ):
        run(PIXELS)


def test_a_tensor_of_another_rank_or_size_is_an_error():
    site = Site("here", "", TOKENS, 5, grid=(2, 3), prefix_tokens=1)
    with pytest.raises(SiteError, match=r"here should have axes 'image token unit' but has shape \(2, 5\)"):
        as_activations(site, torch.zeros(2, 5))
    with pytest.raises(SiteError, match="here should have 7 places x 5 units but has 6 x 5"):
        as_activations(site, torch.zeros(2, 6, 5))
    with pytest.raises(SiteError, match="expected a tensor, found str"):
        as_activations(site, "text")


@pytest.mark.parametrize("wrap", [lambda x: (x, "aux"), lambda x: [x], lambda x: {"out": x, "aux": None}])
def test_fault_052_the_tensor_of_a_tuple_list_or_mapping_is_found(wrap):
    tensor = torch.rand(2, 5)
    got = as_activations(Site("here", "", VECTOR, 5), wrap(tensor))
    assert torch.equal(got, tensor[:, None])


def test_maps_and_patterns_become_places_and_units():
    tensor = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5).float()
    got = as_activations(Site("map", "", MAP, 3, grid=(4, 5)), tensor)
    assert got[1, 2 * 5 + 3, 1] == tensor[1, 1, 2, 3]
    got = as_activations(Site("pattern", "", PATTERN, 15, grid=(2, 2)), tensor)
    assert got[1, 2, 1 * 5 + 3] == tensor[1, 1, 2, 3]


def test_read_keeps_what_later_layers_overwrite():
    model = tiny_cnn()
    name = "stages.0.0.branch"  # the shortcut is added into this tensor, in place
    kept = read(model, PIXELS, [model.site(name), model.site("logits")])[name]
    assert torch.equal(kept, read(model, PIXELS, [model.site(name)])[name])


def test_held_restores_after_an_error(mixed):
    before = state_of(mixed.module)
    with held(mixed.module):
        inside = state_of(mixed.module)
    assert not any(inside["modes"] + inside["needs"])
    assert state_of(mixed.module) == before
    with pytest.raises(ValueError, match="inside"), held(mixed.module):
        raise ValueError("inside")
    assert state_of(mixed.module) == before


def test_a_trace_orders_and_nests_calls():
    calls = trace(MODEL.module, MODEL.preprocess(PIXELS)).calls
    by_path = defaultdict(list)
    for call in calls:
        by_path[call.path].append(call)
    root, (fc1,), (mlp,) = calls[0], by_path["blocks.0.mlp.fc1"], by_path["blocks.0.mlp"]
    assert root.start < mlp.start < fc1.start < fc1.end < mlp.end < root.end
    assert (fc1.shape_in, fc1.shape_out, fc1.index) == ((2, 17, 24), (2, 17, 96), 1)
    assert by_path["blocks.0.mlp.act"][0].input is fc1.output
