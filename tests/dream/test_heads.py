"""Heads and attention: their scores by naive sums, on whole grids, windows and sub-sampled keys."""

import pytest
import timm
import torch

from vitscope.dream import dream
from vitscope.dream.heads import attention, head
from vitscope.dream.objectives import unit
from vitscope.dream.recipes import OLAH_2017
from vitscope.errors import BadAddress, BadValue, UnknownAddress, UnknownSite
from vitscope.models import load
from vitscope.models.checkpoints import seeded
from vitscope.tap import read
from vitscope.testing import stirred, tiny_cnn, tiny_vit

WINDOWS = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (2, 2)}
SAMPLED = {"img_size": 64, "embed_dims": (16,) * 4, "num_heads": (2,) * 4, "depths": (2, 1, 1, 1)}
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def family(name, settings, size):
    module = seeded(lambda: timm.create_model(name, num_classes=5, **settings), seed=0)
    return load(stirred(module), sample=(size, size), device="cpu")


def swin():
    return family("swin_tiny_patch4_window7_224", WINDOWS, 32)


def score_and_activations(model, objective, images=IMAGES):
    found = read(model, images, objective.sites(model))
    (activations,) = found.values()
    return objective.score(model, found), activations.double()


@pytest.mark.parametrize("make", [tiny_vit, swin])
@pytest.mark.parametrize("number", [0, 1])
def test_a_head_is_the_mean_of_its_units_over_the_grid(make, number):
    model = make()
    scores, context = score_and_activations(model, head("blocks.1", number))
    prefix = context.shape[1] - 16  # the grid is 4 x 4
    width = context.shape[2] // (3 if make is tiny_vit else 2)
    for image in range(2):
        total = 0.0
        for place in range(prefix, prefix + 16):
            for dim in range(width):
                total += context[image, place, number * width + dim].item()
        assert scores[image].item() == pytest.approx(total / (16 * width), abs=1e-6)


def test_the_heads_of_one_attention_share_its_units():
    """Their mean is that of all units, and each is the sum of its units."""
    model = tiny_vit()
    found = read(model, IMAGES, model.sites("blocks.1.attn.heads"))
    scores = [head("blocks.1", number).score(model, found) for number in range(3)]
    whole = found["blocks.1.attn.heads"][:, 1:].mean(dim=(1, 2))
    torch.testing.assert_close(torch.stack(scores).mean(dim=0), whole)
    by_unit = sum((unit(f"blocks.1.attn.heads:{n}") for n in range(9, 16)), unit("blocks.1.attn.heads:8")) / 8
    torch.testing.assert_close(by_unit.score(model, found), scores[1])


def test_a_head_can_be_read_at_a_place_or_in_a_region():
    model = tiny_vit()
    found = read(model, IMAGES, model.sites("blocks.1.attn.heads"))
    context = found["blocks.1.attn.heads"][..., 16:24]
    torch.testing.assert_close(head("blocks.1@cls", 2).score(model, found), context[:, 0].mean(-1))
    torch.testing.assert_close(
        head("blocks.1", 2, where="0:2,1:3").score(model, found), context[:, [2, 3, 6, 7]].mean(dim=(1, 2))
    )


@pytest.mark.parametrize("name", ["blocks.1", "blocks.1.attn", "blocks.1.attn.heads", "blocks.1.attn.q"])
def test_any_site_of_an_attention_names_it(name):
    model = tiny_vit()
    assert head(name, 1).bind(model).terms == head("blocks.1", 1).bind(model).terms
    assert attention(name, 1).bind(model).terms == attention("blocks.1", 1).bind(model).terms


def test_the_authors_score_by_its_definition():
    """Entries of S[query row, query column, key row, key column], query left, key right; times 10,000."""
    model = tiny_vit()
    scores, weights = score_and_activations(model, 1e4 * attention("blocks.1", 2))
    for image in range(2):
        total = count = 0
        for query_row in range(4):
            for query_column in range(2):
                for key_row in range(4):
                    for key_column in range(2, 4):
                        query = 1 + 4 * query_row + query_column
                        key = 1 + 4 * key_row + key_column
                        total += weights[image, query, 2 * 17 + key].item()
                        count += 1
        assert scores[image].item() == pytest.approx(1e4 * total / count, rel=1e-5)


def test_all_attention_of_a_query_is_one():
    model = tiny_vit()
    for queries in ("cls", "center", "3,1", "grid", "all"):
        scores, _ = score_and_activations(model, attention("blocks.2", 0, queries=queries, keys="all"))
        torch.testing.assert_close(scores, torch.full((2,), 1 / 17))


def test_of_windows_only_pairs_within_a_window_count():
    model = swin()
    site = model.site("blocks.0.attn.pattern")
    assert site.keys.table is not None
    scores, weights = score_and_activations(model, attention("blocks.0", 1, queries="1,1", keys="top"))
    expected = [weights[image, 9, 16:][site.keys.table[9] < 32].mean().item() for image in range(2)]
    assert scores.tolist() == pytest.approx(expected, rel=1e-5)
    whole, _ = score_and_activations(model, attention("blocks.0", 1, queries="top", keys="grid"))
    torch.testing.assert_close(whole, torch.full((2,), 1 / 16))
    with pytest.raises(UnknownAddress, match=r"no query of 'left' sees a key of 'right' at blocks\.0\.attn"):
        attention("blocks.0", 1).bind(model)


def test_padding_of_windows_and_sub_sampled_keys_are_honoured():
    model = family("twins_svt_small", SAMPLED, 64)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    padded = model.site("blocks.0.attn.pattern")
    scores, weights = score_and_activations(
        model, attention("blocks.0", 0, queries="15,15", keys="grid"), images
    )
    table = padded.keys.table[-1]
    assert (table < 0).any()
    real = [n for n in range(49) if table[n] >= 0]
    expected = [sum(weights[image, -1, n].item() for n in real) / len(real) for image in range(2)]
    assert scores.tolist() == pytest.approx(expected, rel=1e-5)
    scores, weights = score_and_activations(
        model, attention("blocks.1", 1, queries="15,15", keys="1,0"), images
    )
    torch.testing.assert_close(scores.double(), weights[:, 255, 4 + 2])
    with pytest.raises(UnknownAddress, match=r"no place '2,0' at the keys of blocks\.1.* its grid is 2 x 2"):
        attention("blocks.1", 1, keys="2,0").bind(model)


def test_the_formulas_and_the_errors():
    model = tiny_vit()
    assert repr(2 * head("blocks.1@cls", 0)) == "2.0*head(blocks.1@cls, 0)"
    assert repr(head("blocks.1", 0, where="left")) == "head(blocks.1, 0, left)"
    assert attention("blocks.1", 2).text == "attention(blocks.1, 2, left -> right)"
    for asked in (head("blocks.1", 3), attention("blocks.1", -1)):
        with pytest.raises(UnknownAddress, match=r"no head -?\d at blocks\.1\.attn\.\w+: it has 3 heads \(0"):
            asked.bind(model)
    with pytest.raises(UnknownSite, match=r"no site 'blocks\.7\.attn\.heads' .* has 3 .* Nearest: 'blocks"):
        head("blocks.7", 0).bind(model)
    with pytest.raises(UnknownSite, match=r"no site 'stages\.0\.0\.attn\.pattern' .* has 0 of that kind"):
        attention("stages.0.0", 0).bind(tiny_cnn())
    with pytest.raises(BadAddress, match=r"a head has many units: write 'blocks\.1', not 'blocks\.1:3'"):
        head("blocks.1:3", 0)
    with pytest.raises(BadValue, match=r"write queries='cls', not 'blocks\.1@cls'"):
        attention("blocks.1@cls", 0)
    with pytest.raises(BadValue, match=r"no region 'centre'\. Nearest: 'center'"):
        attention("blocks.1", 0, queries="centre").bind(model)
    with pytest.raises(BadValue, match="names a place already: leave out where='left'"):
        head("blocks.1@cls", 0, where="left").bind(model)


@pytest.mark.parametrize("make", [tiny_vit, swin])
def test_dreams_of_heads_and_of_attention_rise(make):
    recipe = OLAH_2017.replace(steps=24)
    asked = [head("blocks.1", 0), attention("blocks.1", 1), -head("blocks.1", 1)]
    for made in dream(make(), asked, recipe=recipe):
        assert made.trust["status"] == "ok"
        assert made.score > made.trust["start"] + 1e-4
