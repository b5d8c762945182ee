"""Dreams beside natural images: the same augmentations for both, the way to the unit, the verdict."""

import dataclasses

import pytest
import torch

from vitscope.draws import generator
from vitscope.dream import dream
from vitscope.dream.ascent import Ascent
from vitscope.dream.augment import Moment, augment
from vitscope.dream.judge import FRESH, FRESH_COPIES
from vitscope.dream.natural import Natural, beside_natural
from vitscope.dream.path import path_similarity
from vitscope.dream.recipes import FEL_2023, GHIASI_2022
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit

SHORT = GHIASI_2022.replace(steps=4, copies=2)
ADDRESS = "blocks.2.ffn:3"


def images(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def natural(**changes) -> Natural:
    known = Natural([0.02, 0.01], 1000, images(3, 1), images(4, 2))
    return dataclasses.replace(known, **changes)


@pytest.fixture(scope="module")
def made():
    model = tiny_vit()
    return model, dream(model, ADDRESS, recipe=SHORT, seed=5)


def test_the_best_image_meets_the_augmentations_that_judged_the_dream(made):
    """Derived again by hand: 32 views of it, drawn by the dream's seed and address."""
    model, result = made
    trust = beside_natural(model, result, natural(), recipe=SHORT).trust
    moment = Moment(2, 4, FRESH_COPIES, model.preprocessing.size)
    for pixels, name in ((natural().exemplars[:1], "natural_robust"), (result.pixels[None], "robust")):
        sources = [generator(5, ADDRESS, step=FRESH)]
        views = augment(pixels, SHORT.augmentations, sources=sources, moment=moment).pixels[0]
        site = model.sites.named("blocks.2.ffn")
        values = read(model, views, [site])[site.name][:, site.prefix_tokens :, 3].double().mean()
        assert trust[name] == pytest.approx(values.item(), rel=1e-4)


def test_the_path_goes_through_the_blocks_before_the_unit(made):
    model, result = made
    trust = beside_natural(model, result, natural(), recipe=SHORT).trust
    sites = [model.sites.named("blocks.0"), model.sites.named("blocks.1")]
    shown = natural()
    expected = path_similarity(model, result.pixels[None], shown.exemplars, shown.others, sites=sites)
    assert trust["path_by_site"] == expected
    known = [value for value in expected.values() if value is not None]
    assert trust["path"] == (pytest.approx(sum(known) / len(known)) if known else None)


def test_a_unit_of_the_first_block_is_reached_through_the_embedding():
    model = tiny_vit()
    made = dream(model, "blocks.0.ffn:1", recipe=SHORT)
    assert set(beside_natural(model, made, natural(), recipe=SHORT).trust["path_by_site"]) == {"embed"}


def test_stages_of_a_cnn_are_a_way_too():
    model = tiny_cnn()
    last = [site.name for site in model.sites if site.name.startswith("stages.")][-1]
    made = dream(model, f"{last}:1", recipe=SHORT)
    names = set(beside_natural(model, made, natural(), recipe=SHORT).trust["path_by_site"])
    assert names
    assert all(name.startswith("stages.") and name != last for name in names)


@pytest.mark.parametrize("best", [[-1e9, -2e9], [1e9, 1e8]])
def test_the_verdict(made, best):
    """Whatever the scores of the scan, the best image must lose under augmentations as well."""
    model, result = made
    again = beside_natural(model, result, natural(best=best), recipe=SHORT)
    shaken = again.trust["natural_robust"] >= again.trust["robust"]
    assert again.trust["status"] == ("weak" if best[0] > 0 or shaken else "ok")
    assert torch.equal(again.pixels, result.pixels)


def test_what_is_not_known_is_left_out(made):
    model, result = made
    nothing = torch.empty(0, 3, 32, 32)
    assert beside_natural(model, result, natural(best=[]), recipe=SHORT) is result
    bare = beside_natural(model, result, natural(exemplars=nothing), recipe=SHORT).trust
    assert "natural_ratio" in bare
    assert "natural_robust" not in bare
    assert "path" not in bare
    diverged = dataclasses.replace(result, score=None)
    assert beside_natural(model, diverged, natural(), recipe=SHORT) is diverged


def test_recipes_on_larger_canvases_show_the_image_at_their_size(made):
    model, _ = made
    recipe = FEL_2023.replace(steps=2, copies=2)
    result = dream(model, ADDRESS, recipe=recipe)
    assert result.pixels.shape[-1] > 32
    trust = beside_natural(model, result, natural(), recipe=recipe).trust
    assert trust["natural_robust"] != trust["robust"]
    assert Ascent(model, [], recipe, 0).canvas_size == tuple(result.pixels.shape[-2:])
