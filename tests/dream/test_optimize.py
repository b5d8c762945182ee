"""The loop: scores rise, units do not disturb each other, nothing stays on the model, nothing leaks."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from vitscope.dream import recipes
from vitscope.dream.ascent import Glimpse
from vitscope.dream.objectives import logit, unit
from vitscope.dream.optimize import optimize
from vitscope.dream.plan import Plan
from vitscope.dream.recipe import Recipe
from vitscope.dream.result import Dream
from vitscope.errors import BadValue, NotWritable, UnknownAddress
from vitscope.lean import AS_WRITTEN
from vitscope.models import load
from vitscope.provenance import explain
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit

SHORT = recipes.GHIASI_2022.replace(steps=20, copies=4)
ALL = {
    "ghiasi_2022": SHORT,
    "ghiasi_2022:paper": recipes.GHIASI_2022_PAPER.replace(steps=8, copies=4),
    "olah_2017": recipes.OLAH_2017.replace(steps=20),
    "fel_2023": recipes.FEL_2023.replace(steps=6, copies=4),
}


RISING = {
    "ghiasi_2022": recipes.GHIASI_2022.replace(steps=40, copies=8, penalties=()),
    "ghiasi_2022:paper": recipes.GHIASI_2022_PAPER.replace(steps=40, copies=8, penalties=()),
    "olah_2017": recipes.OLAH_2017.replace(steps=60),
    "fel_2023": recipes.FEL_2023.replace(steps=40, copies=8),
}
"""Long enough to climb; a random net of 32 pixels has too small scores to pay for total variation."""


def one(model, text: str, recipe: Recipe, *, seed: int = 0) -> Dream:
    return optimize(model, [unit(text)], recipe=recipe, seed=seed)[0]


@pytest.mark.parametrize("name", RISING)
def test_the_score_rises_and_beats_the_start(name: str):
    dreams = optimize(tiny_vit(), [unit(f"blocks.2:{n}") for n in range(4)], recipe=RISING[name])
    gains = [dream.score - dream.trust["start"] for dream in dreams]
    assert sum(gains) > 0.05
    assert "paper" in name or min(gains) > 0  # its pixel noise drowns some units of a random net
    for dream in dreams:
        assert dream.trust["status"] == "ok"
        assert len(dream.trace) == RISING[name].steps
        assert 0 <= dream.pixels.min() < dream.pixels.max() <= 1
        assert math.isfinite(dream.trust["robust"])
        assert (dream.recipe, dream.seed, dream.trust["retried"]) == (name, 0, False)
    assert sum(dream.trace[-8:].mean() - dream.trace[:8].mean() for dream in dreams) > 0


@pytest.mark.parametrize("recipe", ALL.values(), ids=ALL)
def test_a_dream_does_not_depend_on_its_batch_mates(recipe: Recipe):
    model = tiny_vit()
    names = [f"blocks.1.ffn:{n}" for n in (3, 1, 4, 5)]
    alone = one(model, names[2], recipe)
    batch = optimize(model, [unit(name) for name in names], recipe=recipe)
    order = optimize(model, [unit(name) for name in reversed(names)], recipe=recipe)
    pieces = optimize(model, [unit(name) for name in names], recipe=recipe, batch_size=3)
    mixed = optimize(model, [unit("blocks.2.ffn:0"), unit(names[2]), logit(3)], recipe=recipe)
    for other in (batch[2], order[1], pieces[2], mixed[1]):
        assert other.address == names[2]
        torch.testing.assert_close(other.pixels, alone.pixels, atol=1e-4, rtol=0)
        assert other.score == pytest.approx(alone.score, abs=1e-4)
        assert other.trust["robust"] == pytest.approx(alone.trust["robust"], abs=1e-4)


def test_the_same_seed_gives_the_identical_image_and_another_seed_another():
    model = tiny_vit()
    first, again, other = (one(model, "blocks.0.ffn:7", SHORT, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.pixels, again.pixels)
    assert first.score == again.score
    assert (first.pixels - other.pixels).abs().mean() > 0.05


def test_the_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = one(tiny_vit(), "blocks.0.ffn:7", SHORT)
    torch.manual_seed(4)
    second = one(tiny_vit(), "blocks.0.ffn:7", SHORT)
    torch.manual_seed(3)
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(torch.get_rng_state(), before)


def naive_ascent(model, recipe: Recipe, address: str) -> torch.Tensor:
    """One unit without batches, taps or Adam from a library: the whole model, float64, update by update."""
    import numpy as np

    from vitscope.draws import generator

    rows, columns = model.preprocessing.size
    image = torch.from_numpy(
        generator(0, address, step=0).random((3, rows, columns), dtype=np.float32)
    ).double()
    first, second = torch.zeros_like(image), torch.zeros_like(image)
    block, number = int(address.split(".")[1]), int(address.split(":")[1])
    hidden = {}
    module = model.module.double()
    handle = module.blocks[block].mlp.act.register_forward_hook(
        lambda _, __, output: hidden.update(value=output)
    )
    for step in range(recipe.steps):
        source = generator(0, address, step=1 + step)
        uniform = source.uniform(-1, 1, size=(recipe.copies, 2, 3))
        deviation = 0.5 * ((recipe.steps - 2 - step) % recipe.steps) / recipe.steps
        noise = deviation * source.standard_normal((recipe.copies, 3))
        down, right = source.integers(-32, 32, size=(1, 2), endpoint=True)[0]
        image = image.detach().requires_grad_()
        loss = 0.0
        for copy in range(recipe.copies):
            mu, sigma = torch.from_numpy(uniform[copy, 0]), torch.from_numpy(np.exp(uniform[copy, 1]))
            view = (image - mu[:, None, None]) / sigma[:, None, None]
            view = torch.roll(
                view + torch.from_numpy(noise[copy])[:, None, None], (int(down), int(right)), (1, 2)
            )
            mean, std = torch.tensor(model.preprocessing.mean), torch.tensor(model.preprocessing.std)
            module(((view - mean[:, None, None]) / std[:, None, None])[None].double())
            score = hidden["value"][0, 1:, number].mean()
            variation = 0.0
            for channel in view:
                for a, b in (
                    (channel[1:], channel[:-1]),
                    (channel[:, 1:], channel[:, :-1]),
                    (channel[1:, 1:], channel[:-1, :-1]),
                    (channel[1:, :-1], channel[:-1, 1:]),
                ):
                    variation = variation + ((a - b) ** 2).sum().sqrt() / 3
            loss = loss + (0.0004 * variation - score) / recipe.copies
        (slope,) = torch.autograd.grad(loss, image)
        first = 0.5 * first + 0.5 * slope
        second = 0.99 * second + 0.01 * slope**2
        rate = 0.1 * (1 + math.cos(math.pi * step / recipe.steps)) / 2
        upright = first / (1 - 0.5 ** (step + 1)), second / (1 - 0.99 ** (step + 1))
        image = (image.detach() - rate * upright[0] / (upright[1].sqrt() + 1e-8)).clamp(0, 1)
    handle.remove()
    return image


def test_ghiasi_equals_a_naive_loop_in_float64():
    recipe = recipes.GHIASI_2022.replace(steps=6, copies=3)
    found = one(tiny_vit(), "blocks.1.ffn:11", recipe)
    expected = naive_ascent(tiny_vit(), recipe, "blocks.1.ffn:11")
    torch.testing.assert_close(found.pixels.double(), expected, atol=2e-3, rtol=0)
    assert (found.pixels.double() - expected).abs().mean() < 1e-5


def test_the_clean_score_is_that_of_the_picture():
    model = tiny_vit()
    objective = 0.5 * unit("blocks.0.ffn:7") - unit("blocks.1:3@cls")
    dream = optimize(model, [objective], recipe=SHORT)[0]
    from vitscope.tap import read

    found = objective.score(model, read(model, dream.pixels[None], objective.sites(model)))
    assert dream.score == pytest.approx(found.item(), abs=1e-5)
    assert dream.address == "0.5*unit(blocks.0.ffn:7) - 1.0*unit(blocks.1:3@cls)"


def test_nothing_stays_on_the_model():
    model = tiny_vit()
    module = model.module.train()
    next(module.parameters()).requires_grad_(False)
    weights = {name: value.clone() for name, value in module.state_dict().items()}

    def facts():
        hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()]
        needs = [(p.requires_grad, p.grad is None) for p in module.parameters()]
        return hooks, needs, [part.training for part in module.modules()]

    before = facts()
    one(model, "blocks.0.ffn:7", SHORT)
    assert facts() == before

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(model, [unit("blocks.0.ffn:7")], recipe=SHORT, on_step=stop)
    assert facts() == before
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


def test_only_the_blocks_up_to_the_deepest_site_run():
    model = tiny_vit()
    runs = []
    for index, block in enumerate(model.module.blocks):
        block.register_forward_hook(lambda *_, index=index: runs.append(index))
    optimize(model, [unit("blocks.0:1") + unit("blocks.1.ffn:1")], recipe=SHORT.replace(steps=2))
    assert set(runs) == {0}


def test_progress_counts_units_times_steps():
    seen = []
    objectives = [unit("blocks.0.ffn:7"), unit("blocks.1.ffn:0"), unit("blocks.0.ffn:1")]
    optimize(
        tiny_vit(),
        objectives,
        recipe=SHORT.replace(steps=2),
        on_step=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 6), (4, 6), (5, 6), (6, 6)]


@pytest.mark.parametrize("recipe", ALL.values(), ids=ALL)
def test_who_watches_changes_nothing_and_sees_the_picture_form(recipe: Recipe):
    model, seen = tiny_vit(), []

    def watch(glimpse: Glimpse) -> None:
        seen.append((glimpse.step, glimpse.scores, glimpse.pixels()))
        torch.rand(3)  # whatever a watcher does

    objectives = [unit("blocks.1.ffn:3"), unit("blocks.1.ffn:5")]
    alone = optimize(model, objectives, recipe=recipe)
    watched = optimize(model, objectives, recipe=recipe, on_glimpse=watch)
    assert [step for step, _, _ in seen] == list(range(recipe.steps))
    for index, (ours, theirs) in enumerate(zip(watched, alone, strict=True)):
        assert torch.equal(ours.pixels, theirs.pixels)
        assert torch.equal(ours.trace, theirs.trace)
        assert (ours.score, ours.trust) == (theirs.score, theirs.trust)
        assert torch.equal(torch.stack([scores[index] for _, scores, _ in seen]), theirs.trace)
        torch.testing.assert_close(seen[-1][2][index], theirs.pixels, atol=1e-6, rtol=0)
        assert not torch.allclose(seen[0][2][index], theirs.pixels, atol=1e-3)


def test_a_dead_unit_says_so_and_is_no_black_square():
    model = tiny_vit()
    fc1 = model.module.blocks[1].mlp.fc1
    fc1.weight.data[5] = 0
    fc1.bias.data[5] = -3
    dead, live = optimize(model, [unit("blocks.1.ffn:5"), unit("blocks.1.ffn:6")], recipe=SHORT)
    assert dead.trust["status"] == "dead"
    assert dead.pixels.mean() > 0.1
    assert dead.pixels.isfinite().all()
    assert live.trust["status"] == "ok"


def poison(model, *, from_call: int, until_call: int = 1 << 30) -> None:
    calls = iter(range(1 << 30))

    def spoil(_, __, output):
        spoiled = output.clone()
        # a constant: no slope leads back, so the other units stay clean
        if from_call <= next(calls) < until_call:
            spoiled[:, :, 3] = float("nan")
        return spoiled

    model.module.blocks[0].mlp.act.register_forward_hook(spoil)


def test_fault_110_a_dream_that_diverges_is_tried_again_and_never_black():
    """Twice non-finite: status diverged, the picture is the start, no number is non-finite."""
    model = tiny_vit()
    poison(model, from_call=3)
    bad, good = optimize(
        model, [unit("blocks.0.ffn:3"), unit("blocks.0.ffn:4")], recipe=SHORT.replace(copies=16)
    )
    assert bad.trust["status"] == "diverged"
    assert bad.trust["retried"]
    assert (bad.score, bad.trust["robust"]) == (None, None)
    assert bad.seed == 1
    assert bad.trace.isfinite().all()
    assert bad.pixels.isfinite().all()
    assert 0.4 < bad.pixels.mean() < 0.6
    assert good.trust["status"] == "ok"
    json.dumps(bad.trust, allow_nan=False)
    json.dumps(bad.provenance.settings, allow_nan=False)


def test_fault_110_the_second_try_may_succeed():
    model = tiny_vit()
    poison(model, from_call=2, until_call=6)
    dream = one(model, "blocks.0.ffn:3", SHORT.replace(steps=5))
    assert dream.trust["status"] == "ok"
    assert dream.trust["retried"]
    assert dream.seed == 1
    assert torch.equal(dream.pixels, one(tiny_vit(), "blocks.0.ffn:3", SHORT.replace(steps=5), seed=1).pixels)


def test_a_png_tells_how_it_was_made(tmp_path):
    model = tiny_vit()
    dream = one(model, "blocks.0.ffn:7", SHORT, seed=5)
    path = dream.save(tmp_path / "dream.png")
    origin = explain(path)
    assert origin == dream.provenance
    assert origin.kind == "dream"
    assert origin.weights == model.fingerprint
    assert origin.settings["address"] == "blocks.0.ffn:7"
    assert origin.settings["seed"] == 5
    assert origin.settings["recipe"] == SHORT.describe()
    with Image.open(path) as image:
        assert image.size == (32, 32)
        levels = torch.tensor(list(image.convert("RGB").tobytes())).view(32, 32, 3)
    assert torch.equal(levels, (dream.pixels * 255).round().long().movedim(0, -1))
    assert dream._repr_png_() == path.read_bytes()
    assert dream.save(tmp_path / "new" / "folder" / "dream.png").exists()
    with pytest.raises(NotWritable, match=r"cannot write .*dream\.png/below"):
        dream.save(path / "below.png")


def test_any_family_and_any_shape():
    dream = one(tiny_cnn(), "stages.2.0:3", RISING["olah_2017"])
    assert dream.score > dream.trust["start"]
    wide = tiny_vit(img_size=(32, 64))
    for recipe in ALL.values():
        pixels = one(wide, "blocks.1.ffn:3", recipe.replace(steps=3)).pixels
        assert pixels.shape[2] == 2 * pixels.shape[1]


def test_the_model_may_be_in_half_precision():
    model = tiny_vit()
    model.module.bfloat16()
    dream = one(model, "blocks.2:1", RISING["ghiasi_2022"])
    assert dream.score > dream.trust["start"] + 0.1
    assert dream.pixels.dtype == torch.float32


def test_errors_come_before_any_work():
    with pytest.raises(BadValue, match="batch_size must be at least 1, not 0"):
        optimize(tiny_vit(), [unit("blocks.0.ffn:7")], recipe=SHORT, batch_size=0)
    with pytest.raises(UnknownAddress, match="no unit 999"):
        optimize(tiny_vit(), [unit("blocks.0.ffn:7"), unit("blocks.0.ffn:999")], recipe=SHORT)
    assert optimize(tiny_vit(), [], recipe=SHORT) == []


def test_a_warm_up_leads_off_the_flat_side_of_the_activation():
    model, address = load("vitscope:vit_mini"), "blocks.4.ffn:412"  # its GELU is flat wherever a dream begins
    cold = recipes.OLAH_2017.replace(steps=40)
    stuck, freed = (one(model, address, recipe) for recipe in (cold, cold.replace(warm_up=0.5)))
    assert stuck.score < 0.01
    assert freed.score > 1
    assert freed.trust["status"] == "ok"
    assert len(freed.trace) == 40


def test_the_warm_up_climbs_what_lies_before_the_activation():
    model, address = tiny_vit(), "blocks.1.ffn:3"
    before = unit(address).bind(model).before(model)
    assert [site.name for site in before.sites] == ["blocks.1.mlp.fc1"]
    pixels = torch.rand(3, 3, 32, 32)
    found = read(model, pixels, [*before.sites, model.sites.named("blocks.1.ffn")])
    after = torch.nn.functional.gelu(found["blocks.1.mlp.fc1"])
    assert torch.allclose(after, found["blocks.1.ffn"], atol=1e-6)
    scores = before.read(before.sites[0], found["blocks.1.mlp.fc1"])
    assert torch.allclose(scores, found["blocks.1.mlp.fc1"][:, 1:, 3].mean(dim=1))
    assert unit("blocks.1:3").bind(model).before(model) == unit("blocks.1:3").bind(model)


SEEDED, PLAN = SHORT.replace(steps=3), Plan(AS_WRITTEN, 8, 2, 1.0)


def test_of_several_seeds_the_most_robust_is_kept():
    model, names = tiny_vit(), ["blocks.0.ffn:1", "blocks.1.ffn:2"]
    objectives, steps = [unit(name) for name in names], []
    kept = optimize(
        model,
        objectives,
        recipe=SEEDED,
        seed=3,
        seeds=3,
        plan=PLAN,
        on_step=lambda done, total: steps.append((done, total)),
    )
    tries = [optimize(model, objectives, recipe=SEEDED, seed=seed, plan=PLAN) for seed in (3, 4, 5)]
    for dream, tried in zip(kept, zip(*tries, strict=True), strict=True):
        scores = [each.trust["robust"] for each in tried]
        best = tried[scores.index(max(scores))]
        assert torch.equal(dream.pixels, best.pixels)
        assert dream.seed == best.seed
        assert dream.trust["seeds"] == 3
        expected = np.std(scores, ddof=1) / np.mean(scores) if np.mean(scores) > 0 else None
        assert dream.trust["spread"] == (expected if expected is None else pytest.approx(expected, rel=1e-5))
    assert steps[-1] == (2 * 3 * SEEDED.steps,) * 2


@pytest.mark.parametrize("seeds", [0, -1])
def test_at_least_one_seed(seeds):
    with pytest.raises(BadValue, match=f"seeds must be at least 1, not {seeds}"):
        optimize(tiny_vit(), [unit("blocks.0.ffn:1")], recipe=SHORT, seeds=seeds)
