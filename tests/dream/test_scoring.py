"""Scores while a model is tapped: plain units are gathered in one go, and give what each reads by itself."""

import pytest
import torch

from vitscope.dream.diversity import diverse
from vitscope.dream.heads import attention, head
from vitscope.dream.likeness import caricature, distance
from vitscope.dream.objectives import channel, direction, logit, unit
from vitscope.dream.scoring import scoring
from vitscope.lean import Forms, Lean
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit


@pytest.mark.parametrize("model", [tiny_vit(), tiny_cnn()], ids=["vit", "cnn"])
def test_plain_units_score_as_each_reads_by_itself(model):
    """In value and in slope; 0.5 + 0.5 of a unit is the same score, read term by term."""
    site = next(site for site in model.sites if site.grid and site.units > 4)
    names = [f"{site.name}:{number}" for number in (3, 0, 4)]
    plain = [unit(name).bind(model) for name in names]
    summed = [(0.5 * unit(name) + 0.5 * unit(name)).bind(model) for name in names]
    images = torch.rand(6, 3, *model.preprocessing.size)
    found = []
    for objectives in (plain, summed):
        pixels = images.clone().requires_grad_()
        with scoring(model, objectives) as score:
            scores = score(pixels, range(3), Lean())
        found.append((scores.detach(), torch.autograd.grad(scores.sum(), pixels)[0]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    activations = read(model, images, [site])[site.name][:, site.prefix_tokens :]
    expected = torch.cat([activations[2 * i : 2 * i + 2, :, n].mean(dim=1) for i, n in enumerate((3, 0, 4))])
    torch.testing.assert_close(found[0][0], expected.detach(), atol=1e-6, rtol=1e-5)


def test_units_may_be_shown_in_part_and_again():
    model = tiny_vit()
    objectives = [unit(f"blocks.1.ffn:{number}").bind(model) for number in range(4)]
    images = torch.rand(4, 3, *model.preprocessing.size)
    with scoring(model, objectives) as score, torch.no_grad():
        whole = score(images, range(4), Lean())
        parts = [score(images[i : i + 1], [i], Lean()) for i in range(4)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=1e-5)


def test_plain_and_other_objectives_share_a_pass():
    model = tiny_vit()
    objectives = [each.bind(model) for each in (unit("blocks.0.ffn:3"), channel("blocks.1.ffn:2"), logit(1))]
    images = torch.rand(3, 3, *model.preprocessing.size)
    with scoring(model, objectives) as score, torch.no_grad():
        together = score(images, range(3), Lean())
    for index, objective in enumerate(objectives):
        with scoring(model, [objective]) as score, torch.no_grad():
            alone = score(images[index : index + 1], [0], Lean())
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-6, rtol=1e-5)


NOISE = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "objective",
    [
        unit("blocks.1.ffn:3"),
        direction("blocks.1.ffn", [0.01] * 96),
        head("blocks.1", 1),
        1e4 * attention("blocks.1", 1),
        distance("blocks.1", NOISE),
        caricature("blocks.1", NOISE),
        diverse(unit("blocks.1.ffn:3"), count=2),
    ],
    ids=lambda objective: objective.text,
)
def test_scores_are_wide_however_narrow_the_products(objective):
    """What is read is summed in float32, close to what a pass in float32 gives."""
    model = tiny_vit()
    bound = objective.bind(model)
    images = torch.rand(2 * bound.canvases, 3, *model.preprocessing.size)
    with scoring(model, [bound]) as score, torch.no_grad():
        wide, narrow = (score(images, [0], Lean(Forms(products=kind))) for kind in ("float32", "bfloat16"))
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, wide, atol=0.02 * wide.abs().max().item(), rtol=0.02)
