"""Sweeps over depth: each row is what the intervention at its depth gives; what depths share runs once."""

from collections import Counter
from functools import partial

import pytest
import torch
from tests.conftest import PIXELS, state_of

from vitscope.errors import Unsuited
from vitscope.interventions.depths import dropping_depths, isolation_depths
from vitscope.interventions.model import drop_patches_after, isolate_cls
from vitscope.interventions.trunk import answer
from vitscope.tap import read, rerouted
from vitscope.testing import tiny_vit

MODELS = {"vit": {}, "registers": {"reg_tokens": 2}, "one block": {"depth": 1}}
SWEEPS = {"isolation": (isolation_depths, isolate_cls), "dropping": (dropping_depths, drop_patches_after)}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return tiny_vit(**MODELS[request.param])


@pytest.mark.parametrize("name", SWEEPS)
def test_each_row_is_the_intervention_at_its_depth(model, name):
    sweep, intervention = SWEEPS[name]
    depths = 1 + len(model.module.blocks)
    with sweep(model):
        rows = answer(model, PIXELS).reshape(2, depths, -1)
    for blocks in range(depths):
        with intervention(model, blocks=blocks):
            assert torch.allclose(rows[:, blocks], answer(model, PIXELS), atol=1e-5), blocks


@pytest.mark.parametrize("name", SWEEPS)
def test_a_pass_after_a_broken_one_starts_anew(name):
    model = tiny_vit()
    with SWEEPS[name][0](model):
        expected = answer(model, PIXELS)
        read(model, PIXELS, [model.site("blocks.1")])  # stops early
        with pytest.raises(Exception, match="height"):
            answer(model, torch.rand(1, 3, 40, 40))
        assert torch.equal(answer(model, PIXELS), expected)


@pytest.mark.parametrize("name", SWEEPS)
def test_blocks_before_the_last_read_the_plain_model(name):
    model = tiny_vit()
    sites = [model.site("embed"), model.site("blocks.0"), model.site("blocks.1")]
    plain = read(model, PIXELS, sites)
    with SWEEPS[name][0](model):
        found = read(model, PIXELS, sites)
    assert all(torch.equal(found[site.name], plain[site.name]) for site in sites)


def test_what_depths_share_runs_once():
    model = tiny_vit()
    with isolate_cls(model, blocks=0):  # tries once what the answer is read off
        pass
    first, _, last = model.module.blocks
    tokens = Counter()

    def counted(name, original, x, **settings):
        tokens[name] += x.shape[0] * x.shape[1]
        return original(x, **settings)

    for name, (sweep, _) in SWEEPS.items():
        count = partial(counted, name)
        with rerouted(first, count), rerouted(last, count), sweep(model):
            answer(model, PIXELS[:1])
    assert tokens["isolation"] == (17 + 17) + (3 * 17 + 17)  # joint from 0, 1 and 2 on, and the one apart
    assert tokens["dropping"] == (17 + 1) + (17 + 3)


@pytest.mark.parametrize("name", SWEEPS)
def test_no_trace_is_left_and_nothing_is_kept(name):
    model = tiny_vit()
    before = state_of(model.module)
    with SWEEPS[name][0](model):
        answer(model, PIXELS)
    assert state_of(model.module) == before
    assert not [part for part in model.module.modules() if "forward" in vars(part)]


def test_where_cls_cannot_be_isolated_neither_can_depths():
    model = tiny_vit(global_pool="avg")
    for sweep, _ in SWEEPS.values():
        with pytest.raises(Unsuited, match="not read off its prefix tokens alone"), sweep(model):
            pass
