"""Plans of sites: where values are read, and claims that are offered only if they hold."""

import pytest
import torch
from torch import nn

from vitscope.models.arrange import arranged
from vitscope.models.claims import Claim, Plan, Then, adds_up, close, laid
from vitscope.models.substitute import first_tensor
from vitscope.models.vision_model import MAP, TOKENS, VECTOR, Preprocessing, VisionModel
from vitscope.tap import read
from vitscope.trace import trace

SAMPLE = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(3))


class Model(nn.Module):
    """Values that modules hand out, that they take in, and that only functions make."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 5, 1), nn.LayerNorm(5)
        self.inner, self.head = nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, images):
        x = self.first(images).flatten(2).mT
        y = self.inner(self.norm(x))
        total = x + y
        return self.head((total * 2).mean(1))


@pytest.fixture
def plan() -> Plan:
    module = Model().eval()
    return Plan(module, SAMPLE, trace(module, SAMPLE))


def as_model(plan):
    plain = Preprocessing((4, 6), None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return VisionModel(plan.module, "model", preprocessing=plain, sites=())


def value_of(plan, name, turn=1):
    return [op for op in plan.trace.ops if op.name == name][turn - 1].output


def sites_of(plan):
    return {
        "first": plan.site("first", value_of(plan, "conv2d")),
        "stream": plan.site("stream", value_of(plan, "mT")),
        "branch": plan.site("branch", value_of(plan, "linear")),
        "total": plan.site("total", value_of(plan, "add")),
    }


def test_a_value_is_read_where_a_module_has_it_else_at_its_function(plan):
    found = sites_of(plan)
    assert {name: (site.path, site.side, site.function, site.axes) for name, site in found.items()} == {
        "first": ("first", "output", "", MAP),
        "stream": ("norm", "input", "", TOKENS),
        "branch": ("inner", "output", "", TOKENS),
        "total": ("", "output", "add", TOKENS),
    }
    got = read(as_model(plan), SAMPLE, list(found.values()))
    with torch.no_grad():
        stream = plan.module.first(SAMPLE).flatten(2).mT
        branch = plan.module.inner(plan.module.norm(stream))
    for name, expected in {
        "stream": stream,
        "first": stream,
        "branch": branch,
        "total": stream + branch,
    }.items():
        assert torch.allclose(got[name], expected, atol=1e-6)


def test_sites_are_kept_in_the_order_they_fire(plan):
    found = sites_of(plan)
    plan.add(found["total"], None, found["first"], found["branch"], found["stream"])
    assert [site.name for site in plan.ordered()] == ["first", "stream", "branch", "total"]
    moments = [plan.moment(site) for site in plan.ordered()]
    assert moments == sorted(moments)


def test_what_is_claimed_is_offered_only_where_it_holds(plan):
    found = sites_of(plan)
    parts = (found["stream"], found["branch"], found["total"])
    plan.settle(
        [
            Claim(parts, adds_up, (found["branch"],), "no branch"),
            Claim(parts[::-1], adds_up, (found["total"],), "no total: it does not add up"),
            Claim(parts[:1], lambda _: False, (found["stream"],)),
        ]
    )
    assert [site.name for site in plan.ordered()] == ["branch"]
    assert plan.notes == ["no total: it does not add up"]


def test_every_claim_is_settled_by_the_values_of_its_parts(plan):
    found, seen = sites_of(plan), []

    def look(one, other):
        seen.append(torch.equal(one, other))
        return True

    claims = [
        Claim((found["first"], found["stream"]), look, ()),
        Claim((found["stream"], found["branch"]), look, ()),
    ]
    assert plan.check(claims) == [True, True]
    assert seen == [True, False]
    assert plan.check([]) == []


def test_without_weights_nothing_can_be_checked_and_structure_is_offered():
    module = Model().eval().to("meta")
    sample = SAMPLE.to("meta")
    plan = Plan(module, sample, trace(module, sample))
    site = plan.site("total", value_of(plan, "add"))
    assert not plan.has_weights
    plan.settle([Claim((site,), lambda _: False, (site,), "never")])
    assert (plan.ordered(), plan.notes) == ((site,), [])


def test_values_without_places_or_a_moment_have_no_site(plan):
    assert plan.site("mean", value_of(plan, "mean")) is None  # it lies nowhere in particular
    weight = next(op for op in plan.trace.ops if op.name == "linear").inputs[1]
    assert plan.site("weight", weight) is None
    assert plan.inside("nothing", value_of(plan, "add").made_by, None, get=first_tensor) is None


def test_units_may_be_picked(plan):
    site = plan.site("some", value_of(plan, "linear"), columns=torch.tensor([3, 0]))
    whole = plan.site("all", value_of(plan, "linear"))
    got = read(as_model(plan), SAMPLE, [site, whole])
    assert site.units == 2
    assert torch.equal(got["some"], got["all"][..., [3, 0]])


def test_the_arguments_of_a_function_are_read_before_it_runs(plan):
    op = value_of(plan, "add").made_by
    found = arranged(op.output.layout)
    first = plan.inside("first", op, found, get=first_tensor)
    second = plan.inside("second", op, found, get=lambda given: given[0][1] * 2, recomputed=True)
    assert (first.side, first.function, first.recomputed, second.recomputed) == ("input", "add", False, True)
    got = read(as_model(plan), SAMPLE, [first, second, *sites_of(plan).values()])
    assert torch.equal(got["first"], got["stream"])
    assert torch.equal(got["second"], 2 * got["branch"])
    assert plan.moment(first) < plan.moment(sites_of(plan)["total"])
    changed = plan.inside("second", op, found, get=lambda given: given[0][1] * 2, recomputed=False)
    assert (changed.recomputed, plan.moment(changed)) == (False, plan.moment(second))


def test_a_claim_after_another_holds_only_with_it(plan):
    site = plan.site("some", value_of(plan, "linear"))
    for first_holds in (True, False):
        plan.notes.clear()
        first = Claim((site,), lambda _, holds=first_holds: holds, (), "no first")
        plan.settle([first, Claim((site,), lambda _: True, (site,), "no second", after=first)])
        assert plan.notes == ([] if first_holds else ["no first", "no second"])
    assert plan.ordered() == (site,)


def test_vectors_are_read_at_the_head(plan):
    site = plan.vector("logits", plan.trace.calls[0].output)
    pooled = plan.taken("pooled", plan.readers(value_of(plan, "mean"))[-1])
    assert (site.axes, site.units, pooled.axes, pooled.units, pooled.side) == (VECTOR, 2, VECTOR, 5, "input")
    got = read(as_model(plan), SAMPLE, [site, pooled])
    with torch.no_grad():
        assert torch.allclose(plan.module.head(got["pooled"]), got["logits"])
        assert torch.allclose(plan.module(SAMPLE), got["logits"][:, 0])


def test_modules_that_run_more_than_once_are_named_by_call():
    module = nn.Sequential(shared := nn.Conv2d(3, 3, 1), nn.ReLU(), shared).eval()
    plan = Plan(module, SAMPLE, trace(module, SAMPLE))
    first, last = (call for call in plan.trace.calls if call.path == "0")
    assert [plan.raw_name(call) for call in (first, last)] == ["0~1", "0~2"]
    assert plan.written_as(last.output) == "0~2"
    assert plan.written_as(plan.trace.values[0]) is None
    site = plan.site("second", last.output)
    assert (site.path, site.call, site.calls) in (("0", 2, 2), ("", 1, 1))


def test_one_derivation_after_another():
    assert Then(lambda x: x + 1, lambda x: x * 2)(torch.tensor(3.0)) == 8
    assert Then(lambda x: x + 1, None)(torch.tensor(3.0)) == 4


def test_close_is_relative_to_the_largest_value():
    one = torch.tensor([100.0, 0.0])
    assert close(one, one + torch.tensor([0.0, 0.09]))
    assert not close(one, one + torch.tensor([0.0, 0.2]))
    assert not close(one, torch.tensor([100.0, torch.nan]))
    assert close(torch.zeros(2), torch.zeros(2))
    assert not close(torch.ones(2), torch.zeros(2))


def test_a_laid_site_says_what_was_found():
    found = arranged(trace(nn.Conv2d(3, 5, 1).eval(), SAMPLE).calls[0].output.layout)
    site = laid("map", found)
    assert (site.name, site.axes, site.units, site.grid, site.derive) == ("map", MAP, 5, (4, 6), None)
