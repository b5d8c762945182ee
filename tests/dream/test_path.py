"""The path of a dream: rank correlations against scipy, and its two fixed points."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from vitscope.dream import path
from vitscope.dream.path import path_similarity
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_ranks_share_ties():
    values = torch.tensor([[0.3, 0.1, 0.3, 0.2], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    expected = np.stack([rankdata(row) for row in values.numpy()])
    assert path._ranks(values).numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("build", [tiny_vit, tiny_cnn])
def test_it_equals_a_loop_over_pairs_with_scipy(build):
    model = build()
    sites = [model.sites.named(name) for name in [site.name for site in model.sites][2:5]]
    dream, exemplars, others = images(1), images(4, 1), images(5, 2)
    found = path_similarity(model, dream, exemplars, others, sites=sites)
    for site in sites:

        def profile(shown, site=site):
            activations = read(model, shown, [site])[site.name].detach().double().numpy()
            places = activations[:, site.prefix_tokens :] if site.grid else activations
            return places.mean(axis=1)

        one, some, rest = map(profile, (dream, exemplars, others))
        among = np.mean([spearmanr(a, b)[0] for i, a in enumerate(some) for b in some[:i]])
        apart = np.mean([spearmanr(a, b)[0] for a in rest for b in some])
        value = np.mean([spearmanr(one[0], b)[0] for b in some])
        if among - apart < path.APART:
            assert found[site.name] is None
        else:
            assert found[site.name] == pytest.approx((value - apart) / (among - apart), rel=1e-6)


def test_an_unrelated_image_is_at_nought_and_an_exemplar_at_one():
    """Exemplars are small changes of one image, so each is to the others as they are among themselves."""
    model = tiny_vit()
    sites = [model.sites.named("blocks.0"), model.sites.named("blocks.1")]
    base = images(1, 7)
    exemplars = (base + 0.05 * torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))).clamp(
        0, 1
    )
    others = images(6, 3)
    same = path_similarity(model, exemplars[:1], exemplars[1:], others, sites=sites)
    other = path_similarity(model, images(1, 9), exemplars, others, sites=sites)
    for site in sites:
        assert same[site.name] == pytest.approx(1, abs=0.3)
        assert other[site.name] == pytest.approx(0, abs=0.4)


def test_exemplars_that_are_not_alike_give_no_scale():
    model = tiny_vit()
    noise = images(8)
    found = path_similarity(model, images(1, 5), noise[:4], noise[:4], sites=[model.sites.named("blocks.0")])
    assert found == {"blocks.0": None}
