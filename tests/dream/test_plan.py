"""The plan: measured once, the same afterwards, and its figures add up."""

import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from vitscope.dream import plan as planning
from vitscope.dream.objectives import unit
from vitscope.dream.optimize import optimize
from vitscope.dream.plan import Plan, Tuned, plan_dreams
from vitscope.dream.recipes import GHIASI_2022
from vitscope.lean import AS_WRITTEN, Forms
from vitscope.models import load
from vitscope.testing import tiny_vit

SHORT = GHIASI_2022.replace(steps=10, copies=4)
NARROW = Forms("products", "linear", "bfloat16")


def bound(model, *names: str):
    return [unit(name).bind(model) for name in names]


def test_figures_add_up():
    plan = Plan(NARROW, images=16, units=32, seconds=7.2)
    assert plan.units_per_hour == 500
    assert plan.describe()["forms"] == {
        "attention": "products",
        "patches": "linear",
        "products": "bfloat16",
        "linear": "blas",
    }
    sentence = plan.sentence(1000)
    finish = time.strftime("%H:%M", time.localtime(time.time() + 7200))
    assert sentence.startswith("1000 dreams, 32 a batch, 16 images a pass, bfloat16 products, attention")
    assert "500 an hour" in sentence
    assert sentence[-5:-3] == finish[:2] or sentence[-2:] in ("00", "59")


def test_a_pass_shows_at_least_the_copies_and_at_most_what_there_is():
    model = tiny_vit()
    one = plan_dreams(model, bound(model, "blocks.0.ffn:1"), recipe=SHORT)
    assert one.images == 4
    many = plan_dreams(model, bound(model, *(f"blocks.0.ffn:{n}" for n in range(16))), recipe=SHORT)
    assert many.images in (4, 8, 16, 32)
    assert one.seconds > 0


def test_the_largest_pass_is_taken_that_is_about_as_fast_as_the_fastest(monkeypatch):
    model = tiny_vit()
    costs = {4: 4.0, 8: 5.9, 16: 12.0, 32: 40.0}  # seconds a pass: 1, 0.74, 0.75, 1.25 an image
    monkeypatch.setattr(planning, "_seconds", lambda *given: costs[given[-1]])
    plan = plan_dreams(model, bound(model, *(f"blocks.0.ffn:{n}" for n in range(8))), recipe=SHORT)
    assert plan.images == 16
    assert plan.seconds == pytest.approx(0.75 * 4 * 10)


def test_passes_are_measured_once_a_process(monkeypatch):
    """So that a dream made again is the same dream, whatever the clock says by then."""
    model, clock = tiny_vit(), iter(range(100, 0, -1))
    monkeypatch.setattr(planning, "_seconds", lambda *_: float(next(clock)))
    objectives = bound(model, *(f"blocks.2.ffn:{n}" for n in range(16)))
    first, second = (plan_dreams(model, objectives, recipe=SHORT) for _ in range(2))
    assert first == second
    assert next(clock) == 96, "4, 8, 16 and 32 images, once"


def test_memory_bounds_a_pass(monkeypatch):
    """Whatever is fastest; but all copies of a unit are always shown at once."""
    model = tiny_vit()
    objectives = bound(model, *(f"blocks.2.ffn:{n}" for n in range(16)))
    monkeypatch.setattr(planning, "_seconds", lambda *_: 1.0)  # the more images the better
    one, two, four = (planning._kept(model, objectives[0], AS_WRITTEN, images) for images in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one), rel=0.05)
    for images, expected in ((40, 32), (17, 16), (8, 8), (1, 4)):
        monkeypatch.setattr(planning, "HELD", {"cpu": images * (two - one)})
        assert plan_dreams(model, objectives, recipe=SHORT, tuned=Tuned(AS_WRITTEN)).images == expected
    monkeypatch.setattr(planning, "HELD", {})
    assert plan_dreams(model, objectives, recipe=SHORT, tuned=Tuned(AS_WRITTEN)).images == 32


def test_the_deepest_objective_is_timed(monkeypatch):
    model, timed = tiny_vit(), []
    monkeypatch.setattr(
        planning,
        "_seconds",
        lambda _, objective, __, images: timed.append(objective.text) or float(images),
    )
    plan_dreams(model, bound(model, "blocks.0.ffn:1", "blocks.2.ffn:1", "blocks.1.ffn:1"), recipe=SHORT)
    assert set(timed) == {"blocks.2.ffn:1"}


def test_forms_are_measured_once_a_process(monkeypatch):
    model, measured = tiny_vit(), []
    monkeypatch.setattr(planning, "tune", lambda *_: measured.append(1) or NARROW)
    plans = [plan_dreams(model, bound(model, "blocks.1.ffn:1"), recipe=SHORT) for _ in range(3)]
    assert len(measured) == 1
    assert {plan.forms for plan in plans} == {NARROW}
    plan_dreams(model, bound(model, "blocks.2.ffn:1"), recipe=SHORT)
    assert len(measured) == 2


class Mixed(nn.Module):
    """Writes a narrow product into a wide tensor in a way that torch refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x.flatten(1)[:, :8])
        return torch.dot(h[0], torch.ones(8)).expand(len(x), 1) + h


def test_a_model_that_does_not_run_in_bfloat16_falls_back_aloud(monkeypatch):
    model = load(Mixed(), sample=(8, 8), device="cpu")
    site = next(site.name for site in model.sites if site.units == 8)
    monkeypatch.setattr(planning, "tune", lambda *_: NARROW)
    plan = plan_dreams(model, bound(model, f"{site}:1"), recipe=SHORT)
    assert plan.forms == replace(NARROW, products="float32")
    assert "does not run in bfloat16: " in plan.note
    assert plan.sentence(3).endswith(plan.note)
    whole = plan_dreams(tiny_vit(), bound(tiny_vit(), "blocks.1.ffn:1"), recipe=SHORT)
    assert (whole.forms, whole.note) == (NARROW, "")


def test_forms_that_are_given_are_not_measured(monkeypatch):
    model = tiny_vit()
    monkeypatch.setattr(planning, "tune", lambda *_: pytest.fail("measured"))
    given = Tuned(Forms("products"), "told before")
    plan = plan_dreams(model, bound(model, "blocks.1.ffn:1"), recipe=SHORT, tuned=given)
    assert (plan.forms, plan.note) == (given.forms, given.note)


def test_the_plan_is_told_before_the_first_step():
    model, told = tiny_vit(), []
    given = Plan(AS_WRITTEN, 8, 2, 1.0)
    optimize(
        model,
        [unit("blocks.0.ffn:1")],
        recipe=SHORT.replace(steps=2),
        plan=given,
        on_plan=lambda plan: told.append(plan),
        on_step=lambda done, total: told.append((done, total)),
    )
    assert told == [given, (1, 2), (2, 2)]


def test_bfloat16_is_used_once_gradients_agree_and_recorded():
    """On a narrow plan every unit starts in float32; when it changed is part of its trust."""
    model = tiny_vit()
    names = [f"blocks.0.ffn:{n}" for n in range(3)]
    plan = Plan(NARROW, 8, 2, 1.0)
    narrow = optimize(model, [unit(name) for name in names], recipe=SHORT, plan=plan)
    wide = optimize(model, [unit(name) for name in names], recipe=SHORT, plan=Plan(AS_WRITTEN, 8, 2, 1.0))
    assert all(dream.trust["narrow_from"] is None for dream in wide)
    assert all(dream.trust["narrow_from"] in (None, 1, 9) for dream in narrow)
    for one, other in zip(narrow, wide, strict=True):
        changed = not torch.equal(one.pixels, other.pixels)
        assert changed or one.trust["narrow_from"] is None
        assert one.provenance.settings["forms"]["products"] == "bfloat16"
    alone = optimize(model, [unit(names[1])], recipe=SHORT, plan=plan)[0]
    assert alone.trust["narrow_from"] == narrow[1].trust["narrow_from"]
    torch.testing.assert_close(alone.pixels, narrow[1].pixels, atol=1e-4, rtol=0)
