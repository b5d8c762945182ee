"""Interventions on tokens: re-implemented in float64 by explicit calls of blocks, their laws, no trace."""

from contextlib import ExitStack
from functools import cache, partial

import pytest
import torch
from tests.conftest import PIXELS, state_of
from timm import create_model
from torch import nn

from vitscope.errors import BadValue, SiteError, Unsuited
from vitscope.interventions.model import drop_patches_after, head_on_places, head_site, isolate_cls
from vitscope.interventions.trunk import answer
from vitscope.models import load
from vitscope.models.checkpoints import seeded
from vitscope.tap import read, tap
from vitscope.testing import tiny_cnn, tiny_vit
from vitscope.testing.doubles import stirred

BLOCKS = 3
FAMILIES = {
    "vit": lambda: tiny_vit(),
    "registers": lambda: tiny_vit(reg_tokens=2, init_values=0.1),
    "clip": lambda: tiny_vit(pre_norm=True, pos_embed="learn"),
    "not square": lambda: tiny_vit(img_size=(32, 48)),
    "distilled": lambda: built("deit_tiny_distilled_patch16_224"),
}


@cache
def plain_vit():
    """A ViT that nobody changes for good."""
    return tiny_vit()


def built(name, *, size=32, **settings):
    """A small model of timm with random weights that show mix-ups."""
    facts = {"img_size": size, "patch_size": 8, "embed_dim": 24, "depth": BLOCKS, "num_heads": 3}
    module = seeded(lambda: create_model(name, num_classes=10, **{**facts, **settings}), seed=0)
    return load(stirred(module), sample=(size, size), device="cpu")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return FAMILIES[request.param]()


@pytest.fixture
def wide(model):
    """The same model in float64."""
    model.to("cpu", torch.float64)
    yield model
    model.to("cpu", torch.float32)


def pixels_of(model):
    rows, columns = model.preprocessing.size
    return torch.rand(3, 3, rows, columns, generator=torch.Generator().manual_seed(1))


def stream(model, pixels):
    """The tokens that enter the first block."""
    return read(model, pixels, [model.site("embed")])["embed"]


def finish(model, tokens):
    """What timm's ViT does after its blocks."""
    with torch.no_grad():
        return model.module.forward_head(model.module.norm(tokens))


def by_hand_isolated(model, pixels, blocks):
    tokens, prefix = stream(model, pixels), model.site("embed").prefix_tokens
    with torch.no_grad():
        cls, patches = tokens[:, :prefix], tokens[:, prefix:]
        for block in model.module.blocks[:blocks]:
            cls, patches = block(cls), block(patches)
        tokens = torch.cat([cls, patches], dim=1)
        for block in model.module.blocks[blocks:]:
            tokens = block(tokens)
    return finish(model, tokens)


def by_hand_dropped(model, pixels, blocks):
    tokens, prefix = stream(model, pixels), model.site("embed").prefix_tokens
    with torch.no_grad():
        for block in model.module.blocks[:blocks]:
            tokens = block(tokens)
        tokens = tokens[:, :prefix]
        for block in model.module.blocks[blocks:]:
            tokens = block(tokens)
    return finish(model, tokens)


@pytest.mark.parametrize("blocks", range(BLOCKS + 1))
@pytest.mark.parametrize(
    ("intervention", "by_hand"),
    [(isolate_cls, by_hand_isolated), (drop_patches_after, by_hand_dropped)],
)
def test_it_is_what_explicit_calls_of_the_blocks_give(wide, intervention, by_hand, blocks):
    pixels = pixels_of(wide)
    with intervention(wide, blocks=blocks):
        found = answer(wide, pixels)
    assert torch.allclose(found, by_hand(wide, pixels, blocks), rtol=0, atol=1e-10)


def test_no_block_isolated_is_the_plain_model_to_the_last_bit(model):
    pixels = pixels_of(model)
    with isolate_cls(model, blocks=0):
        assert torch.equal(answer(model, pixels), answer(model, pixels))
        isolated = answer(model, pixels)
    assert torch.equal(isolated, answer(model, pixels))


def test_patches_dropped_after_all_blocks_are_not_missed(model):
    pixels = pixels_of(model)
    with drop_patches_after(model, blocks=BLOCKS):
        dropped = answer(model, pixels)
    assert torch.equal(dropped, answer(model, pixels))


@pytest.mark.parametrize(("intervention", "blocks"), [(isolate_cls, BLOCKS), (drop_patches_after, 0)])
def test_without_a_way_from_the_image_every_image_gets_the_same_answer(wide, intervention, blocks):
    plain = answer(wide, pixels_of(wide))
    with intervention(wide, blocks=blocks):
        found = answer(wide, pixels_of(wide))
    assert found.var(dim=0).max() < 1e-20
    assert plain.var(dim=0).max() > 1e-6


def test_isolated_prefix_tokens_do_not_know_the_image_before_the_last_block(wide):
    site = wide.site(f"blocks.{BLOCKS - 2}")
    plain = read(wide, pixels_of(wide), [site])[site.name]
    with isolate_cls(wide, blocks=BLOCKS - 1):
        tokens = read(wide, pixels_of(wide), [site])[site.name]
    prefix = site.prefix_tokens
    assert torch.allclose(tokens[:1, :prefix], tokens[1:2, :prefix], rtol=0, atol=1e-12)
    assert (plain[0, :prefix] - plain[1, :prefix]).abs().max() > 1e-3
    assert (tokens[0, prefix:] - tokens[1, prefix:]).abs().max() > 1e-3


def test_the_head_on_every_place_is_the_norm_and_the_head_by_hand(wide):
    pixels, prefix = pixels_of(wide), wide.site("norm").prefix_tokens
    with head_on_places(wide):
        found = answer(wide, pixels)
    normed = read(wide, pixels, [wide.site("norm")])["norm"]
    places = normed.shape[1]
    found = found.reshape(3, places + 1, -1)
    with torch.no_grad():
        for place in (0, prefix, places - 1):
            same = normed[:, place : place + 1].expand(-1, prefix + 1, -1)
            assert torch.allclose(found[:, place], wide.module.forward_head(same), rtol=0, atol=1e-10)
        average = normed[:, prefix:].mean(dim=1, keepdim=True).expand(-1, prefix + 1, -1)
        assert torch.allclose(found[:, -1], wide.module.forward_head(average), rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ["vit", "registers", "clip", "not square"])
def test_the_head_on_cls_is_the_plain_model(family):
    model = FAMILIES[family]()
    pixels = pixels_of(model)
    with head_on_places(model):
        rows = answer(model, pixels).reshape(3, model.site("norm").places + 1, -1)
    plain = answer(model, pixels)
    assert torch.allclose(rows[:, 0], plain, rtol=0, atol=1e-5)
    assert not torch.allclose(rows[:, 1], plain, rtol=0, atol=1e-2)


def test_of_an_average_of_patches_the_rows_are_what_each_contributes():
    model = tiny_vit(class_token=False, global_pool="avg", fc_norm=False).to("cpu", torch.float64)
    with head_on_places(model):
        rows = answer(model, PIXELS).reshape(2, 17, -1)
    assert torch.allclose(rows[:, :16].mean(1), answer(model, PIXELS), rtol=0, atol=1e-10)
    assert torch.allclose(rows[:, 16], answer(model, PIXELS), rtol=0, atol=1e-10)


def test_a_norm_after_the_average_is_part_of_the_head():
    model = tiny_vit(class_token=False, global_pool="avg", fc_norm=True).to("cpu", torch.float64)
    assert head_site(model).name == "blocks.2"
    with head_on_places(model):
        rows = answer(model, PIXELS).reshape(2, 17, -1)
    tokens = read(model, PIXELS, [model.site("blocks.2")])["blocks.2"]
    with torch.no_grad():
        by_hand = model.module.head(model.module.fc_norm(tokens[:, 5]))
    assert torch.allclose(rows[:, 5], by_hand, rtol=0, atol=1e-10)
    assert torch.allclose(rows[:, 16], answer(model, PIXELS), rtol=0, atol=1e-10)


def test_a_cnn_answers_at_every_cell_of_its_last_map():
    module = seeded(lambda: create_model("resnet10t", num_classes=10), seed=0)
    model = load(module, sample=(64, 64), device="cpu")
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    site = head_site(model)
    assert site.grid == (2, 2)
    with head_on_places(model):
        rows = answer(model, pixels).reshape(2, 5, 10)
    with torch.no_grad():
        features = model.module.forward_features(model.preprocess(pixels))
        by_hand = model.module.fc(features[:, :, 0, 1])
    assert torch.allclose(rows[:, 1], by_hand, atol=1e-5)
    assert torch.allclose(rows[:, 4], answer(model, pixels), atol=1e-5)


@pytest.mark.parametrize("ending", ["success", "early", "error"])
def test_no_trace_is_left(ending):
    model = tiny_vit()
    model.module.train()
    model.module.blocks[1].requires_grad_(False)
    before, fingerprint = state_of(model.module), model.fingerprint
    interventions = [partial(isolate_cls, blocks=2), partial(drop_patches_after, blocks=2), head_on_places]
    for intervention in interventions:
        try:
            with intervention(model):
                if ending == "error":
                    raise KeyboardInterrupt
                site = model.site("blocks.1" if ending == "early" else "logits")
                read(model, PIXELS, [site])
        except KeyboardInterrupt:
            pass
        assert state_of(model.module) == before
        assert not [part for part in model.module.modules() if "forward" in vars(part)]
    del model.__dict__["fingerprint"]
    assert model.fingerprint == fingerprint


def test_a_forward_that_someone_else_replaced_is_put_back():
    model = tiny_vit()
    block = model.module.blocks[0]
    block.forward = own = partial(type(block).forward, block)
    with isolate_cls(model, blocks=1):
        assert block.forward is not own
    assert block.forward is own


def test_they_compose_and_close_in_any_number():
    model = tiny_vit().to("cpu", torch.float64)
    plain = answer(model, PIXELS)
    orders = [
        [partial(isolate_cls, blocks=1), partial(drop_patches_after, blocks=2)],
        [partial(drop_patches_after, blocks=2), partial(isolate_cls, blocks=1)],
    ]
    with torch.no_grad():
        tokens = stream(model, PIXELS)
        first, second, third = model.module.blocks
        tokens = second(torch.cat([first(tokens[:, :1]), first(tokens[:, 1:])], dim=1))
        by_hand = finish(model, third(tokens[:, :1]))
    for order in orders:
        with ExitStack() as stack:
            for intervention in order:
                stack.enter_context(intervention(model))
            assert torch.allclose(answer(model, PIXELS), by_hand, rtol=0, atol=1e-10)
        assert torch.equal(answer(model, PIXELS), plain)


def test_both_on_the_same_blocks_compose():
    model = plain_vit()
    with isolate_cls(model, blocks=2), drop_patches_after(model, blocks=1):
        one = answer(model, PIXELS)
    with drop_patches_after(model, blocks=1), isolate_cls(model, blocks=2):
        other = answer(model, PIXELS)
    assert torch.allclose(one, other, atol=1e-6)
    assert one.var(dim=0).max() < 1e-10


def test_a_place_inside_a_separate_block_is_an_error_not_half_a_reading():
    model = plain_vit()
    with (
        isolate_cls(model, blocks=1),
        pytest.raises(SiteError, match=r"blocks.0.ffn should have 17 places x 96 units but has 1 x 96"),
        tap(model, [model.site("blocks.0.ffn")], on_read=lambda *_: None) as run,
    ):
        run(PIXELS)


@pytest.mark.parametrize("blocks", [-1, BLOCKS + 1])
def test_more_blocks_than_there_are_is_an_error(blocks):
    model = plain_vit()
    with (
        pytest.raises(BadValue, match=rf"blocks must be 0 to 3, the blocks of .*, not {blocks}"),
        isolate_cls(model, blocks=blocks),
    ):
        pass


def test_a_head_that_always_says_the_same_is_no_reason_to_refuse():
    model = tiny_vit()
    torch.nn.init.zeros_(model.module.head.weight)
    with isolate_cls(model, blocks=1):
        assert torch.equal(answer(model, PIXELS), model.module.head.bias.expand(2, -1))


class Shifty(nn.Module):
    """A ViT whose CLS token is made from the image."""

    def __init__(self, vit):
        super().__init__()
        self.vit = vit

    def forward(self, images):
        tokens = self.vit.pos_drop(self.vit._pos_embed(self.vit.patch_embed(images)))
        tokens = tokens + images.mean((1, 2, 3))[:, None, None]
        return self.vit.forward_head(self.vit.norm(self.vit.blocks(self.vit.norm_pre(tokens))))


UNSUITED = {
    "no blocks": (tiny_cnn, "has no transformer blocks"),
    "no CLS": (lambda: tiny_vit(class_token=False, global_pool="avg"), "has no CLS token beside the patches"),
    "average": (
        lambda: tiny_vit(global_pool="avg"),
        "not read off its prefix tokens alone but off its patches",
    ),
    "attention pooling": (
        lambda: tiny_vit(class_token=False, global_pool="map"),
        "has no CLS token beside the patches",
    ),
    "relative positions": (
        lambda: built("vit_relpos_small_patch16_224", class_token=True, global_pool="token"),
        "block 0 of .* does not run on 1 of its 17 tokens, as blocks do that hold relative positions",
    ),
    "rotations": (
        lambda: built("eva02_tiny_patch14_224", global_pool="token"),
        "block 0 of .* does not run on 1 of its 17 tokens",
    ),
    "an image in CLS": (
        lambda: load(Shifty(tiny_vit().module), sample=(32, 32), device="cpu"),
        "know of the image before they meet a patch",
    ),
}


@pytest.mark.parametrize("case", UNSUITED)
def test_where_it_makes_no_sense_the_error_says_why(case):
    build, why = UNSUITED[case]
    model = build()
    with pytest.raises(Unsuited, match=why), isolate_cls(model, blocks=1):
        answer(model, PIXELS)
    assert not [part for part in model.module.modules() if "forward" in vars(part)]


def test_a_head_that_needs_its_whole_grid_is_an_error():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit, self.head = tiny_vit(class_token=False, global_pool="avg").module, nn.Linear(16 * 24, 5)

        def forward(self, images):
            return self.head(self.vit.forward_features(images).flatten(1))

    model = load(Whole(), sample=(32, 32), device="cpu")
    with (
        pytest.raises(Unsuited, match="no norm or last block with places on the image after which its head"),
        head_on_places(model),
    ):
        pass
