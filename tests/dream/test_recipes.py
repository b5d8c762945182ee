"""The recipes have the papers' numbers; the registry resolves and explains itself; real models dream."""

import pytest
import torch

import vitscope.dream
from vitscope.address import Address
from vitscope.dream import RECIPES, dream, recipe_named, unit
from vitscope.dream.augment import Affine, ChannelNoise, ColourShift, Crops, Jitter, PixelNoise
from vitscope.dream.likeness import inversion
from vitscope.dream.penalties import TotalVariation
from vitscope.dream.recipe import Recipe
from vitscope.dream.recipes import (
    FEL_2023,
    GHIASI_2022,
    GHIASI_2022_INVERSION,
    GHIASI_2022_PAPER,
    OLAH_2017,
    VITSCOPE,
)
from vitscope.dream.result import Dream
from vitscope.errors import BadAddress, UnknownName
from vitscope.tap import read
from vitscope.testing import tiny_vit


@pytest.mark.parametrize(("step", "rate"), [(0, 0.1), (200, 0.05), (400, 0.0)])
def test_ghiasi_anneals_by_a_cosine(step: int, rate: float):
    assert GHIASI_2022.rate(step) == pytest.approx(rate, abs=1e-12)


def test_ghiasi_is_the_code_and_the_variant_is_the_paper():
    settings = (GHIASI_2022.steps, GHIASI_2022.copies, GHIASI_2022.learning_rate, GHIASI_2022.betas)
    assert settings == (400, 8, 0.1, (0.5, 0.99))
    assert GHIASI_2022.augmentations == (
        ColourShift(1.0, 1.0, "code"),
        ChannelNoise(0.5),
        Jitter(32, shared=True),
    )
    assert GHIASI_2022_PAPER.augmentations == (ColourShift(1.0, 1.0, "paper"), PixelNoise(1.0), Jitter(32))
    assert (
        GHIASI_2022_PAPER.replace(name="ghiasi_2022", augmentations=GHIASI_2022.augmentations) == GHIASI_2022
    )
    assert GHIASI_2022.canvas.bounds == (0, 1)


def test_the_weight_of_total_variation_balances_as_in_the_code():
    """Code: mean over a B x B diagonal matrix of activations, 0.0005 v of variation, B = 8, v = 0.1."""
    copies, v = 8, 0.1
    activations = torch.rand(copies, dtype=torch.float64)
    code_activation = torch.diag(activations).mean()
    assert code_activation.item() == pytest.approx(0.125 * activations.mean().item())
    (penalty,) = GHIASI_2022.penalties
    assert penalty.weight == pytest.approx(0.0005 * v * activations.mean().item() / code_activation.item())


def test_inversion_is_what_the_code_minimises():
    """The first step by hand: the slope of ||A(x) - A(y)|| + 1.0 TV(x), through Adam's first update."""
    recipe = GHIASI_2022_INVERSION
    kept = {"name": "ghiasi_2022", "copies": 8, "augmentations": GHIASI_2022.augmentations}
    assert recipe.replace(**kept, penalties=GHIASI_2022.penalties) == GHIASI_2022
    assert (recipe.copies, recipe.augmentations, recipe.penalties) == (1, (), (TotalVariation(weight=1.0),))
    model, reference = tiny_vit(), torch.rand(3, 32, 32)
    goal = inversion("blocks.1", reference)
    before, after = (
        dream(model, goal, recipe=recipe.replace(steps=1, learning_rate=rate)) for rate in (1e-12, 1e-3)
    )
    model.module.double()
    x = before.pixels.double().clone().requires_grad_()
    mine, theirs = (
        read(model, pixels[None].double(), [model.site("blocks.1")])["blocks.1"] for pixels in (x, reference)
    )
    price = (mine - theirs).square().sum().sqrt() + naive_variation(x)
    (slope,) = torch.autograd.grad(price, x)
    expected = (x.detach() - 1e-3 * slope.sign()).clamp(0, 1)
    clear = slope.abs() > 1e-3 * slope.abs().max()  # Adam's first step is the sign, but for the smallest
    assert clear.double().mean() > 0.9
    torch.testing.assert_close(after.pixels.double()[clear], expected[clear], atol=2e-6, rtol=0)


def naive_variation(x: torch.Tensor) -> torch.Tensor:
    """Mean over colours of the norms of four difference images."""
    parts = []
    for colour in x:
        down, right = colour[1:] - colour[:-1], colour[:, 1:] - colour[:, :-1]
        main, other = colour[1:, 1:] - colour[:-1, :-1], colour[1:, :-1] - colour[:-1, 1:]
        parts.append(sum((d**2).sum() ** 0.5 for d in (down, right, main, other)))
    return torch.stack(parts).mean()


def test_inversion_comes_nearer_to_the_image():
    model, reference = tiny_vit(), torch.full((3, 32, 32), 0.7)
    made = dream(model, inversion("blocks.1", reference), recipe=GHIASI_2022_INVERSION.replace(steps=40))
    assert made.score > 0.5 * made.trust["start"]  # both are minus distances
    assert made.trust["total_variation"] < 60
    assert made.trust["robust"] == pytest.approx(made.score, rel=1e-4)


def test_olah_and_fel_have_the_numbers_of_their_code():
    assert (OLAH_2017.steps, OLAH_2017.copies, OLAH_2017.learning_rate, OLAH_2017.rate(300)) == (
        512,
        1,
        0.05,
        0.05,
    )
    (affine,) = OLAH_2017.augmentations
    assert isinstance(affine, Affine)
    assert (affine.jitters, min(affine.scales), max(affine.scales)) == ((8, 4), 0.9, 1.1)
    assert (len(affine.angles), affine.angles.count(0), max(affine.angles)) == (26, 6, 10)
    assert (FEL_2023.steps, FEL_2023.copies, FEL_2023.learning_rate, FEL_2023.optimiser) == (
        256,
        32,
        1.0,
        "nadam",
    )
    assert FEL_2023.crops == Crops(0.5, 0.05, 0.05, 0.15, 0.05)
    assert round(FEL_2023.canvas_scale * 224) == 512


def test_every_name_resolves_to_the_recipe_of_that_name():
    for name in RECIPES:
        recipe = recipe_named(name)
        assert isinstance(recipe, Recipe)
        assert recipe.name == name
        if name != "vitscope":
            assert str(recipe.year) in name
            assert "arXiv:" in recipe.citation or "doi:" in recipe.citation


def test_learning_rates_by_schedule():
    recipe = GHIASI_2022.replace(steps=8, learning_rate=0.4)
    rates = {
        name: [recipe.replace(schedule=name).rate(step) for step in range(9)]
        for name in ("constant", "cosine", "held")
    }
    assert rates["constant"] == [0.4] * 9
    assert rates["cosine"][0] == 0.4
    assert rates["cosine"][4] == pytest.approx(0.2)
    assert rates["cosine"][8] == pytest.approx(0)
    assert rates["held"][:5] == [0.4] * 5
    assert rates["held"][6] == pytest.approx(0.2)
    assert rates["held"][8] == pytest.approx(0)


def test_our_recipe_excites_units():
    """On a random net, whose units care little: together more than the grey that they start from."""
    model, short = tiny_vit(), VITSCOPE.replace(steps=40)
    dreams = dream(model, [f"blocks.1.ffn:{n}" for n in range(4)], recipe=short)
    assert sum(made.score - made.trust["start"] for made in dreams) > 0.2
    assert sum(made.trace[-4:].mean() - made.trace[4:8].mean() for made in dreams) > 0.2
    for made in dreams:
        assert made.trust["status"] == "ok"
        assert made.provenance.settings["recipe"]["numbers"] == "even"


def test_an_unknown_recipe_lists_those_there_are():
    with pytest.raises(UnknownName) as caught:
        dream(tiny_vit(), "blocks.0.ffn:1", recipe="giasi_2022")
    text = str(caught.value)
    assert text.startswith("no recipe 'giasi_2022'. Nearest: 'ghiasi_2022'")
    assert "fel_2023             2023  Unlocking Feature Visualization" in text
    assert "olah_2017            2017  Feature Visualization" in text


def test_the_front_door_takes_one_or_many():
    model, short = tiny_vit(), GHIASI_2022.replace(steps=2, copies=2)
    single = dream(model, "blocks.0.ffn:1", recipe=short)
    many = dream(model, ["blocks.0.ffn:1", Address("blocks.0.ffn", 2), -unit("blocks.0.ffn:3")], recipe=short)
    assert isinstance(single, Dream)
    assert [each.address for each in many] == [
        "blocks.0.ffn:1",
        "blocks.0.ffn:2",
        "-1.0*unit(blocks.0.ffn:3)",
    ]
    torch.testing.assert_close(many[0].pixels, single.pixels)
    assert dream(model, [], recipe=short) == []
    with pytest.raises(BadAddress, match=r"'blocks.0.ffn' names a site but no unit"):
        dream(model, "blocks.0.ffn", recipe=short)


def test_public_names_are_all_there():
    assert all(hasattr(vitscope.dream, name) for name in vitscope.dream.__all__)


@pytest.mark.real
def test_a_real_unit_is_excited_beyond_its_best_start(shared):
    from vitscope.models import load

    model = load(
        "timm:vit_tiny_patch16_224", weights=str(shared / "weights/vit_tiny_patch16_224.safetensors")
    )
    made = dream(model, "blocks.2.ffn:17", recipe=GHIASI_2022.replace(steps=12, copies=2))
    assert made.score > made.trust["start"] + 0.1
    assert made.pixels.shape == (3, 224, 224)
