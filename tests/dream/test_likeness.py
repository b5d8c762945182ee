"""Likeness: distances and caricatures by naive loops in float64, and what is shown beside an ascent."""

import math

import pytest
import torch

from vitscope.dream import dream
from vitscope.dream.augment import Crops, Jitter
from vitscope.dream.likeness import caricature, distance, inversion
from vitscope.dream.objectives import interpolate, unit
from vitscope.dream.penalties import TotalVariation
from vitscope.dream.recipes import GHIASI_2022, OLAH_2017
from vitscope.errors import BadAddress, BadValue, UnknownSite
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
REFERENCE = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2))
INVERT = GHIASI_2022.replace(copies=1, augmentations=(), penalties=(TotalVariation(weight=1e-4),), steps=24)
SITES = {"vit": (tiny_vit, "blocks.0"), "cnn": (tiny_cnn, "stages.1.0")}


def activations(model, site):
    whole = read(model, torch.cat([REFERENCE[None], IMAGES]), [model.site(site)])[site]
    return whole[:1], whole[1:]


@pytest.mark.parametrize("family", SITES)
def test_distances_by_their_definition(family):
    make, site = SITES[family]
    model = make()
    (reference,), others = activations(model, site)
    scores = distance(site, REFERENCE).score(model, {site: others})
    shares = distance(site, REFERENCE, relative=True).score(model, {site: others})
    norm = math.sqrt(sum(float(value) ** 2 for value in reference.flatten()))
    for image in range(3):
        squares = 0.0
        for place in range(reference.shape[0]):
            for number in range(reference.shape[1]):
                squares += (float(others[image, place, number]) - float(reference[place, number])) ** 2
        assert scores[image].item() == pytest.approx(math.sqrt(squares), rel=1e-5)
        assert shares[image].item() == pytest.approx(math.sqrt(squares) / norm, rel=1e-5)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("family", SITES)
def test_caricatures_by_their_definition(family, power):
    make, site = SITES[family]
    model = make()
    (reference,), others = activations(model, site)
    scores = caricature(site, REFERENCE, power=power).score(model, {site: others})
    skip = model.site(site).prefix_tokens
    theirs = reference[skip:].double()
    for image in range(3):
        mine = others[image, skip:].double()
        dots = [
            sum(float(a) * float(b) for a, b in zip(one, other, strict=True))
            for one, other in zip(mine, theirs, strict=True)
        ]
        cosine = sum(dots) / math.sqrt(float((mine**2).sum()) * float((theirs**2).sum()))
        expected = sum(dots) / len(dots) * max(0.1, cosine) ** power
        assert scores[image].item() == pytest.approx(expected, rel=1e-4)


def test_laws_of_distance_and_caricature():
    model = tiny_vit()
    site = "blocks.0"
    reference, others = activations(model, site)
    near = distance(site, REFERENCE, relative=True)
    assert near.score(model, {site: reference}).item() == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(
        near.score(model, {site: torch.zeros_like(reference)}), torch.ones(1), atol=1e-5, rtol=0
    )
    pair = distance(site, REFERENCE).score(model, {site: others})
    torch.testing.assert_close(inversion(site, REFERENCE).score(model, {site: others}), -pair)
    more = caricature(site, REFERENCE)  # the same, only twice as much: the cosine stays
    plain, twice = (more.score(model, {site: factor * reference}) for factor in (1, 2))
    torch.testing.assert_close(twice, 2 * plain)
    assert more.score(model, {site: 0 * reference}).item() == 0
    away = more.score(model, {site: -reference})
    torch.testing.assert_close(away, -plain * 0.01)  # 0.1 squared: what points away is hardly pushed


def test_slopes_at_the_image_itself_are_finite():
    """The root of a sum of squares has no slope at 0."""
    model = tiny_vit()
    bound = distance("blocks.0", REFERENCE).bind(model)
    (_, reading) = bound.terms[0]
    start = reading.reference.clone().requires_grad_()
    (slope,) = torch.autograd.grad(bound.read(bound.sites[0], start).sum(), start)
    assert torch.equal(slope, torch.zeros_like(slope))


def test_the_text_is_keyed_by_the_image():
    other = REFERENCE.flip(-1)
    assert distance("blocks.0", REFERENCE).text != distance("blocks.0", other).text
    assert distance("blocks.0", REFERENCE) == distance("blocks.0", REFERENCE.clone())
    assert repr(inversion("blocks.0", REFERENCE)).startswith("-1.0*distance(blocks.0, image #")
    assert repr(caricature("a", REFERENCE)).endswith(", power 2)")
    assert repr(distance("a", REFERENCE, relative=True)).endswith(", relative)")


def test_before_the_activation_images_are_compared_where_they_were():
    model = tiny_vit()
    bound = caricature("blocks.1.ffn", REFERENCE).bind(model)
    assert bound.before(model) == bound


def test_errors():
    with pytest.raises(BadAddress, match=r"write 'a', not 'a:1'"):
        distance("a:1", REFERENCE)
    with pytest.raises(BadAddress, match="at all places of a site: write 'a'"):
        caricature("a@cls", REFERENCE)
    with pytest.raises(BadValue, match="power of a caricature must be at least 0, not -1"):
        caricature("a", REFERENCE, power=-1)
    with pytest.raises(UnknownSite, match=r"no site 'blocks\.9'"):
        inversion("blocks.9", REFERENCE).bind(tiny_vit())


@pytest.mark.parametrize("family", SITES)
def test_inversions_come_nearer_and_caricatures_go_further(family):
    make, site = SITES[family]
    model = make()
    inverted = dream(model, inversion(site, REFERENCE), recipe=INVERT)
    assert inverted.score > 0.8 * inverted.trust["start"]  # both are negative
    made = dream(model, caricature(site, REFERENCE), recipe=OLAH_2017.replace(steps=24))
    assert made.score > 1.05 * made.trust["start"]


def test_an_inversion_of_an_early_site_is_the_image():
    """Where a patch has as many units as pixels; two images of noise differ by a third on average."""
    model = tiny_vit(embed_dim=192, depth=1)
    made = dream(model, inversion("embed", REFERENCE), recipe=INVERT.replace(steps=60, penalties=()))
    assert (made.pixels - REFERENCE).abs().mean() < 0.15


@pytest.mark.parametrize(
    "recipe",
    [
        GHIASI_2022.replace(steps=3, copies=3, penalties=(), learning_rate=1e-9),
        OLAH_2017.replace(steps=3, augmentations=(Jitter(9),), learning_rate=1e-9),
        GHIASI_2022.replace(steps=3, copies=2, crops=Crops(), canvas_scale=2.0, learning_rate=1e-9),
    ],
)
def test_what_is_compared_with_is_augmented_alike(recipe):
    """A canvas that starts from the image and hardly moves stays at distance 0, however it is shown."""
    model, large = tiny_vit(), torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(3))
    shown = large if recipe.canvas_scale == 2 else REFERENCE
    still = unit("blocks.1.ffn:3") - 100 * distance("embed", shown, relative=True)
    alone = unit("blocks.1.ffn:3")
    made = dream(model, [still.starting_from(shown), alone.starting_from(shown)], recipe=recipe)
    assert made[0].trust["robust"] > -0.5
    assert made[0].trace.min() > -0.5  # against -100 times a distance of about 0.5
    other = dream(model, still, recipe=recipe)
    assert other.trace.max() < -5


def test_an_objective_with_images_does_not_depend_on_its_batch_mates():
    model = tiny_vit()
    ends = caricature("blocks.0", REFERENCE), caricature("blocks.0", IMAGES[0])
    asked = [
        interpolate(*ends, 3)[1],
        unit("blocks.0:3"),
        unit("blocks.0:2") - distance("blocks.0", IMAGES[1]),
    ]
    recipe = GHIASI_2022.replace(steps=4, copies=2)
    together = dream(model, asked, recipe=recipe)
    for index in (0, 2):
        alone = dream(model, asked[index], recipe=recipe)
        torch.testing.assert_close(together[index].pixels, alone.pixels, atol=1e-4, rtol=0)
        assert together[index].trust["robust"] == pytest.approx(alone.trust["robust"], abs=1e-4)
