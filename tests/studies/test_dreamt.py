"""Dreams of units drawn by lot: which ones, that they are the dreams anybody gets, and that they are kept."""

import numpy as np
import pytest
from einops import rearrange

from vitscope.dream import dream
from vitscope.errors import BadValue, UnknownName
from vitscope.provenance import explain
from vitscope.studies import dreamt
from vitscope.studies.dreamt import drawn, dreams_of, short
from vitscope.testing.doubles import tiny_vit

RECIPE = short("vitscope", steps=2, copies=1)


def test_units_are_drawn_without_repeats_and_nest(vit):
    site = vit.site("blocks.1.ffn")
    few, more = (drawn(site, units=count, seed=0) for count in (4, 20))
    assert len(few) == 4
    assert {*few} < {*more}
    assert more == sorted({*more})
    assert drawn(site, units=500, seed=0) == list(range(96))
    assert drawn(site, units=4, seed=1) != few
    assert drawn(vit.site("blocks.2.ffn"), units=4, seed=0) != few
    with pytest.raises(BadValue, match="at least 1, not 0"):
        drawn(site, units=0, seed=0)


def test_every_unit_is_drawn_equally_often(vit):
    site = vit.site("blocks.1.attn.q")
    counts = np.bincount([unit for seed in range(400) for unit in drawn(site, units=6, seed=seed)])
    assert counts.shape == (24,)
    assert abs(counts - 100).max() < 40  # four standard deviations of 400 draws with a chance of 1/4


def test_a_recipe_with_fewer_steps():
    full = short("ghiasi_2022", steps=0, copies=0)
    assert (full.steps, full.copies) == (400, 8)
    less = short("ghiasi_2022", steps=7, copies=2)
    assert (less.steps, less.copies, less.learning_rate) == (7, 2, full.learning_rate)
    with pytest.raises(BadValue, match="steps must be at least 0"):
        short("ghiasi_2022", steps=-1, copies=0)
    with pytest.raises(UnknownName, match="Nearest: 'ghiasi_2022'"):
        short("ghiasi_2021", steps=0, copies=0)


def test_they_are_the_dreams_that_anybody_gets(vit):
    told = []
    found = dreams_of(
        vit,
        {"blocks.0.ffn": [3, 5], "blocks.2.attn.k": [1]},
        recipe=RECIPE,
        seed=4,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert {site: [one.unit for one in of] for site, of in found.items()} == {
        "blocks.0.ffn": [3, 5],
        "blocks.2.attn.k": [1],
    }
    for of in found.values():
        for one in of:
            alone = dream(vit, f"{one.site}:{one.unit}", recipe=RECIPE, seed=4)
            expected = rearrange(alone.pixels, "rgb row column -> row column rgb").numpy() * 255
            assert np.abs(one.pixels - expected).max() <= 0.5 + 1e-4
            assert one.status == alone.trust["status"]
    assert told[-1] == (3, 3)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_kept_dreams_are_found_again(vit, tmp_path, monkeypatch):
    wanted = {"blocks.0.ffn": [3, 5]}
    first = dreams_of(vit, wanted, recipe=RECIPE, seed=0, keep=str(tmp_path / "kept"))
    files = sorted((tmp_path / "kept").iterdir())
    assert [file.name.split(".")[:3] for file in files] == [
        ["blocks", "0", "ffn_3"],
        ["blocks", "0", "ffn_5"],
    ]
    assert explain(files[0]).settings["address"] == "blocks.0.ffn:3"

    def refuse(*_, **__):
        pytest.fail("a kept dream was made again")

    with monkeypatch.context() as patch:
        patch.setattr(dreamt, "optimize", refuse)
        told = []
        again = dreams_of(
            vit,
            wanted,
            recipe=RECIPE,
            seed=0,
            keep=str(tmp_path / "kept"),
            on_progress=lambda *numbers: told.append(numbers),
        )
    assert told == [(2, 2)]
    for one, other in zip(first["blocks.0.ffn"], again["blocks.0.ffn"], strict=True):
        assert (one.unit, one.status) == (other.unit, other.status)
        assert np.array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("other", ["seed", "recipe", "weights"])
def test_dreams_made_otherwise_are_not_taken(vit, tmp_path, other):
    made = {"seed": 0, "recipe": RECIPE, "weights": vit}
    changed = {
        **made,
        other: {"seed": 1, "recipe": RECIPE.replace(steps=3), "weights": tiny_vit(seed=1)}[other],
    }
    for facts in (made, changed):
        dreams_of(
            facts["weights"],
            {"blocks.0.ffn": [3]},
            recipe=facts["recipe"],
            seed=facts["seed"],
            keep=str(tmp_path),
        )
    assert len(list(tmp_path.iterdir())) == 2


def test_a_dead_unit_stays_dead_when_it_is_found_again(tmp_path):
    model = tiny_vit()
    model.module.blocks[0].mlp.fc1.weight.data[5] = 0
    for _ in range(2):
        (found,) = dreams_of(model, {"blocks.0.ffn": [5]}, recipe=RECIPE, seed=0, keep=str(tmp_path))[
            "blocks.0.ffn"
        ]
        assert found.status == "dead"
