"""Diversity: similarities by naive Gram matrices, groups that stay together, and dreams that differ."""

import pytest
import torch

from vitscope.dream import dream
from vitscope.dream.diversity import Diverse, diverse
from vitscope.dream.likeness import distance
from vitscope.dream.objectives import logit, unit
from vitscope.dream.plan import Plan
from vitscope.dream.recipes import GHIASI_2022, OLAH_2017
from vitscope.errors import BadAddress, BadValue
from vitscope.lean import AS_WRITTEN
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit

SITES = {"vit": (tiny_vit, "blocks.1"), "cnn": (tiny_cnn, "stages.1.0")}
FEW = GHIASI_2022.replace(steps=5, copies=2)
IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def gram(activations):
    """Sum over places of the product of every two units, divided by its norm."""
    places, units = activations.shape
    table = torch.zeros(units, units, dtype=torch.float64)
    for place in range(places):
        table += torch.outer(activations[place], activations[place])
    return table / table.square().sum().sqrt()


@pytest.mark.parametrize("family", SITES)
def test_similarity_by_its_definition(family):
    make, site = SITES[family]
    model = make()
    objective = diverse(unit(f"{site}:1"), count=3, weight=2, site=site)
    found = read(model, IMAGES, [model.site(site)])
    scores = objective.score(model, found)
    skip = model.site(site).prefix_tokens
    grams = [gram(image[skip:].double()) for image in found[site]]
    for canvas in range(3):
        for copy in range(2):
            others = [grams[2 * other + copy] for other in range(3) if other != canvas]
            alike = sum(float((grams[2 * canvas + copy] * other).sum()) for other in others) / 2
            mean = found[site][2 * canvas + copy, skip:, 1].mean().item()
            assert scores[2 * canvas + copy].item() == pytest.approx(mean - 2 * alike, abs=1e-5)


def test_similarity_does_not_ask_where_and_lies_between_0_and_1():
    model = tiny_vit()
    objective = diverse(0 * unit("blocks.0:1"), count=2, site="blocks.0")
    image = torch.randn(1, 17, 24)
    moved = torch.cat([image[:, :1], image[:, 1:].flip(1)], dim=1)
    same = objective.score(model, {"blocks.0": torch.cat([image, 3 * moved])})
    torch.testing.assert_close(same, -torch.ones(2))
    one, other = torch.zeros(2, 1, 17, 24)
    one[..., :12], other[..., 12:] = torch.randn(17, 12), torch.randn(17, 12)
    apart = objective.score(model, {"blocks.0": torch.cat([one, other])})
    torch.testing.assert_close(apart, torch.zeros(2))


def test_the_formula_and_the_algebra():
    several = diverse(unit("a.0.ffn:1"), count=3)
    assert repr(several) == "1.0*unit(a.0.ffn:1) - 1.0*similarity(a.0.ffn, 3 canvases)"
    other = unit("a.1:2") + 2 * several / 2 - unit("a.1:3")
    assert isinstance(other, Diverse)
    assert isinstance(unit("a.1:2") - several, Diverse)
    assert [weight for weight, _ in (unit("a.1:2") - several).terms] == [-1, 1, 1]
    assert not isinstance(unit("a.1:2") + unit("a.1:3"), Diverse)
    assert several == diverse(unit("a.0.ffn:1"), count=3, site="a.0.ffn")
    with pytest.raises(TypeError):
        1 + several  # type: ignore[operator]
    with pytest.raises(TypeError):
        1 - several  # type: ignore[operator]


def test_errors():
    with pytest.raises(BadValue, match="count must be at least 2 for canvases to differ, not 1"):
        diverse(unit("a:1"), count=1)
    with pytest.raises(BadValue, match="is diverse already"):
        diverse(diverse(unit("a:1")))
    with pytest.raises(BadValue, match="weight must be finite, not nan"):
        diverse(unit("a:1"), weight=float("nan"))
    with pytest.raises(BadAddress, match=r"canvases of logit\(3\) are to differ: site='blocks\.5'"):
        diverse(logit(3))
    with pytest.raises(BadAddress, match="write 'a', not 'a:1'"):
        diverse(unit("a:1"), site="a:1")
    with pytest.raises(BadValue, match="2 canvases and 3 canvases cannot be climbed as one"):
        (diverse(unit("blocks.0:1"), count=2) + diverse(unit("blocks.0:1"), count=3)).bind(tiny_vit())


@pytest.mark.parametrize("family", SITES)
def test_several_dreams_that_rise_and_differ_more(family):
    make, site = SITES[family]
    model, recipe = make(), OLAH_2017.replace(steps=24)
    found = {}
    for weight in (0, 20):
        asked = diverse(unit(f"{site}:1"), count=3, weight=weight)
        made = dream(model, asked, recipe=recipe)
        assert [one.trust["status"] for one in made] == ["ok"] * 3
        assert [one.address for one in made] == [f"{asked.text} #{number}" for number in (1, 2, 3)]
        activations = read(model, torch.stack([one.pixels for one in made]), [model.site(site)])
        alone = diverse(0 * unit(f"{site}:1"), count=3, site=site)
        found[weight] = made, alone.score(model, activations).mean().item()
        assert made[0].score == pytest.approx(unit(f"{site}:1").score(model, activations)[0].item(), abs=1e-5)
    assert sum(one.score - one.trust["start"] for one in found[0][0]) > 0.02
    unlike = {weight: 1 + similarity for weight, (_, similarity) in found.items()}  # it has a minus
    assert unlike[20] > 1.3 * unlike[0]


def test_a_group_does_not_depend_on_its_batch_mates_nor_on_the_size_of_a_pass():
    model = tiny_vit()
    several, plain = diverse(unit("blocks.0.ffn:1"), count=3), unit("blocks.0.ffn:2")
    alone = dream(model, several, recipe=FEW)
    more = diverse(unit("blocks.0.ffn:4"), count=2)
    together = dream(model, [plain, several, more, plain], recipe=FEW)
    assert [one.address for one in together] == [
        plain.text, *(one.address for one in alone), f"{more.text} #1", f"{more.text} #2", plain.text,
    ]  # fmt: skip
    small = dream(model, [more, several], recipe=FEW, batch_size=1)
    for first, other, third in zip(alone, together[1:4], small[2:], strict=True):
        for one in (other, third):
            torch.testing.assert_close(one.pixels, first.pixels, atol=1e-4, rtol=0)
            assert one.score == pytest.approx(first.score, abs=1e-4)
            assert one.trust["robust"] == pytest.approx(first.trust["robust"], abs=1e-4)
    torch.testing.assert_close(together[0].pixels, dream(model, plain, recipe=FEW).pixels, atol=1e-4, rtol=0)


def test_canvases_start_apart_and_steps_are_counted_by_canvas():
    seen = []
    asked = [diverse(unit("blocks.0.ffn:1"), count=3), unit("blocks.0.ffn:2")]
    made = dream(
        tiny_vit(), asked, recipe=FEW.replace(steps=1), on_step=lambda done, total: seen.append((done, total))
    )
    assert len(made) == 4
    assert seen[-1] == (4, 4)
    for first in range(4):
        for other in range(first):
            assert (made[first].pixels - made[other].pixels).abs().mean() > 0.1


def test_a_group_that_diverges_is_tried_again_as_a_whole():
    model = tiny_vit()
    calls = iter(range(1 << 30))

    def spoil(_, __, output):
        spoiled = output.clone()
        if next(calls) == 2:
            spoiled[0] = float("nan")
        return spoiled

    model.module.blocks[0].register_forward_hook(spoil)
    plan = Plan(AS_WRITTEN, images=32, units=4, seconds=1.0)  # nothing is measured, so calls are steps
    made = dream(model, diverse(unit("blocks.0:1"), count=2), recipe=FEW, plan=plan)
    assert [(one.trust["status"], one.trust["retried"], one.seed) for one in made] == [("ok", True, 1)] * 2


def test_diverse_dreams_near_an_image():
    """All parts together: canvases that are compared with each other and with a picture shown beside them."""
    model, image = tiny_vit(), IMAGES[0]
    asked = diverse(unit("blocks.1.ffn:1") - distance("blocks.0", image, relative=True), count=2)
    made = dream(model, asked.starting_from(image), recipe=FEW)
    assert [one.trust["status"] for one in made] == ["ok", "ok"]
    assert (made[0].pixels - made[1].pixels).abs().mean() > 1e-3
    assert len(made[0].trace) == FEW.steps
