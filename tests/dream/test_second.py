"""A second start from the best natural image, where that beats a dream that began at noise."""

import dataclasses

import pytest
import torch

from vitscope.draws import generator
from vitscope.dream import dream
from vitscope.dream.augment import Jitter, Moment, augment
from vitscope.dream.judge import FRESH, FRESH_COPIES
from vitscope.dream.natural import Natural, beside_natural
from vitscope.dream.objectives import unit
from vitscope.dream.recipes import GHIASI_2022, VITSCOPE
from vitscope.dream.second import with_second_start
from vitscope.tap import read
from vitscope.testing import tiny_vit

ADDRESS = "blocks.2.ffn:3"
ROLLED = (Jitter(limit=4, shared=True),)
HASTY = GHIASI_2022.replace(
    steps=2, copies=2, learning_rate=0.001, augmentations=ROLLED, penalties=(), second_start=True
)


@pytest.fixture(scope="module")
def seen():
    """A model, its hasty dream of a unit, and a picture that excites the unit far more."""
    model = tiny_vit()
    best = dream(model, ADDRESS, recipe=HASTY.replace(steps=60, learning_rate=0.1, warm_up=0.2), seed=1)
    others = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    shown = torch.cat([best.pixels[None], others[:2]])
    natural = Natural([best.score, 0.01], 1000, shown, others)
    made = dream(model, ADDRESS, recipe=HASTY, seed=5)
    return model, beside_natural(model, made, natural, recipe=HASTY), natural


def robust(model, pixels) -> float:
    """Once more, from the definition: the mean over 32 views of it, drawn as for the first dream."""
    sources = [generator(5, ADDRESS, step=FRESH)]
    moment = Moment(1, 2, FRESH_COPIES, model.preprocessing.size)
    views = augment(pixels[None], HASTY.augmentations, sources=sources, moment=moment).pixels[0]
    site = model.sites.named("blocks.2.ffn")
    return read(model, views, [site])[site.name][:, site.prefix_tokens :, 3].double().mean().item()


def test_it_is_kept_where_it_is_more_robust(seen):
    model, first, natural = seen
    assert first.trust["status"] == "weak"
    kept = with_second_start(model, first, natural, recipe=HASTY)
    began = unit(ADDRESS).starting_from(natural.exemplars[0])
    expected = dream(model, began, recipe=HASTY, seed=5)
    assert kept.trust["second_start"] is True
    assert torch.equal(kept.pixels, expected.pixels)
    assert kept.score == expected.score
    assert kept.score > first.score
    assert (kept.address, kept.seed) == (ADDRESS, 5)
    assert kept.provenance.settings["address"] == began.text, "how it was made stays known"


def test_its_trust_is_its_own_under_the_augmentations_of_the_first(seen):
    model, first, natural = seen
    kept = with_second_start(model, first, natural, recipe=HASTY)
    assert kept.trust["robust"] == pytest.approx(robust(model, kept.pixels), rel=1e-4)
    assert kept.trust["natural_robust"] == pytest.approx(robust(model, natural.exemplars[0]), rel=1e-4)
    assert kept.trust["natural_ratio"] == pytest.approx(kept.score / natural.best[0])
    assert kept.trust["start"] == pytest.approx(natural.best[0], rel=1e-2), "an 8-bit copy of the image"
    assert kept.trust["total_variation"] != first.trust["total_variation"]
    shaken = kept.trust["natural_robust"] >= kept.trust["robust"] or kept.score <= natural.best[0]
    assert kept.trust["status"] == ("weak" if shaken else "ok")


def test_what_the_first_knew_of_seeds_stays(seen):
    model, first, natural = seen
    several = dataclasses.replace(first, trust={**first.trust, "seeds": 3, "spread": 0.25})
    trust = with_second_start(model, several, natural, recipe=HASTY).trust
    assert (trust["seeds"], trust["spread"]) == (3, 0.25)


def test_it_is_dropped_where_it_is_no_better(seen):
    """The image that the scan ranked first excites the unit less than the noise does."""
    model, first, natural = seen
    grey = dataclasses.replace(natural, exemplars=torch.full((1, 3, 32, 32), 0.5))
    boasting = dataclasses.replace(first, trust={**first.trust, "robust": 1e6})
    kept = with_second_start(model, boasting, grey, recipe=HASTY)
    assert kept.trust == {**boasting.trust, "second_start": False}
    assert torch.equal(kept.pixels, first.pixels)


def test_dreams_that_need_none_get_none(seen):
    model, first, natural = seen
    good = dataclasses.replace(first, trust={**first.trust, "status": "ok"})
    assert with_second_start(model, good, natural, recipe=HASTY) is good
    assert with_second_start(model, first, natural, recipe=HASTY.replace(second_start=False)) is first
    blind = dataclasses.replace(natural, exemplars=torch.empty(0, 3, 32, 32))
    assert with_second_start(model, first, blind, recipe=HASTY) is first


def test_a_dead_dream_gets_one(seen):
    model, first, natural = seen
    dead = dataclasses.replace(first, trust={**first.trust, "status": "dead"})
    assert with_second_start(model, dead, natural, recipe=HASTY).trust["second_start"] is True


def test_papers_have_none_and_ours_has_one():
    assert VITSCOPE.second_start
    assert not GHIASI_2022.second_start
