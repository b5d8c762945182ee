"""Probes of every block against plain ridge regression on what explicit calls give."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import vitscope as vs
from vitscope.data.shots import few_shots
from vitscope.errors import BadValue
from vitscope.studies.probe import LABELS, PROBE, _line, _notes
from vitscope.studies.probed import Probed, Several, probes_of
from vitscope.testing import tiny_vit

COUNT = 80
SETTINGS = {"shots": 3, "weakest": -2, "strongest": 6, "tokens": 2, "draws": 2}


@pytest.fixture(scope="module")
def folder(tinted):
    return tinted(COUNT)


@pytest.fixture(scope="module")
def result(vit, cnn, images):
    return PROBE([vit, cnn], images, **SETTINGS, batch_size=7)


def streams(model, pixels):
    """What leaves every block, by explicit calls, in float64."""
    vit, found = model.module, []
    with torch.no_grad():
        tokens = vit._pos_embed(vit.patch_embed(model.preprocess(pixels)))
        for block in vit.blocks:
            tokens = block(tokens)
            found.append(tokens.double().numpy())
    return found


def vectors(tokens):
    """What each reading takes from a stream of 1 + 4 x 4 tokens; of single places the four corners."""
    readings = {
        "cls": tokens[:, 0],
        "patches": tokens[:, 1:].mean(1),
        "all": tokens.mean(1),
        "first": tokens[:, 1],
    }
    corners = {place: tokens[:, 1 + 4 * place[0] + place[1]] for place in ((0, 0), (0, 3), (3, 0), (3, 3))}
    return {**readings, **corners}


def answers(rows, labels, others, strength):
    """Plain ridge regression with the constant as a column."""
    mean, spread = rows.mean(0), rows.std(0) + 1e-5
    rows, others = (
        np.pad((x - mean) / spread, ((0, 0), (0, 1)), constant_values=100.0) for x in (rows, others)
    )
    signs = 2.0 * (labels[:, None] == np.arange(10)) - 1
    square = rows.T @ rows + strength * np.eye(rows.shape[1])
    return (others @ np.linalg.solve(square, rows.T @ signs)).argmax(1)


def expected(values, places):
    """The strength that is right most often on the images held out, the middle of several, and top-1."""
    fit, tune, test = places
    labels = np.arange(COUNT) % 10
    strengths = [2.0**power for power in range(-2, 7)]
    right = [(answers(values[fit], labels[fit], values[tune], a) == labels[tune]).sum() for a in strengths]
    best = [a for a, each in zip(strengths, right, strict=True) if each == max(right)]
    strength, learnt = best[len(best) // 2], [*fit, *tune]
    found = answers(values[learnt], labels[learnt], values[test], strength)
    return strength, 100 * (found == labels[test]).mean()


def wilson(top1):
    """The interval of 95 % of a share of 40 images, in per cent (Wilson 1927)."""
    share, z = top1 / 100, 1.959964
    middle, half = share + z**2 / 80, z * np.sqrt(share * (1 - share) / 40 + z**2 / 6400)
    return [100 * (middle + half * side) / (1 + z**2 / 40) for side in (-1, 1)]


def deviation(one, other):
    """Of two numbers, with n - 1: how far apart they are over the square root of 2."""
    return abs(one - other) / np.sqrt(2)


def test_every_number_is_that_of_plain_ridge_regression(result, vit, images, pixels):
    """Mean and deviation of two draws, each fitted, tuned and tested by hand."""
    draws = [
        [[int(path[:2]) for path in part.paths] for part in (draw.fit, draw.tune, draw.test)]
        for draw in few_shots(images, shots=3, test=0.5, held_out=0.2, draws=2)
    ]
    first, spread = result.models[0], []
    rows = {(row["site"], row["reading"]): row for row in result.rows(model=first)}
    array = {name: result.by_model(name)[first] for name in result.arrays}
    assert len(rows) == 3 * len(LABELS)
    for block, tokens in enumerate(streams(vit, pixels)):
        cells = {}
        for reading, values in vectors(tokens).items():
            (strength, one), (second, other) = (expected(values, places) for places in draws)
            if isinstance(reading, tuple):
                cells[reading] = one, other
                continue
            row = rows[f"blocks.{block}", reading]
            assert row["top1"] == pytest.approx((one + other) / 2)
            assert row["top1_sd"] == pytest.approx(deviation(one, other))
            ends = [row["top1_low"], row["top1_high"]]
            assert ends == pytest.approx(np.add(wilson(one), wilson(other)) / 2, abs=1e-4)
            assert (row["strength"], row["images"], row["chance"]) == (min(strength, second), 40, 10.0)
            assert row["depth"] == pytest.approx((block + 1) / 3)
            for name in ("top1", "top1_sd", "strength"):
                assert array[name][block, list(LABELS).index(reading)] == row[name]
            spread.append(row["top1_sd"])
        row, found = rows[f"blocks.{block}", "token"], np.array(list(cells.values()))
        assert row["top1"] == pytest.approx(found.mean())
        assert row["top1_sd"] == pytest.approx(deviation(*found.mean(axis=0)))
        assert row["top1_low"] is None
        assert np.allclose(array["token_top1"][block].ravel(), found.mean(axis=1))
        assert np.allclose(array["token_top1_sd"][block].ravel(), [deviation(*pair) for pair in found])
    assert max(spread) > 1


def test_one_draw_has_no_deviation(result, vit, images):
    single = PROBE(vit, images, sites=["blocks.1"], **{**SETTINGS, "draws": 1})
    assert {row["top1_sd"] for row in single.table} == {None}
    assert np.isnan(single.arrays["top1_sd"]).all()
    assert np.isnan(single.arrays["token_top1_sd"]).all()
    assert not any("draws" in note for note in single.provenance.settings["seen"]["notes"])
    line, many = (_line(each, each.models[0], "cls") for each in (single, result))
    assert np.array_equal(line.low, [row["top1_low"] for row in single.rows(reading="cls")])
    assert np.allclose(many.y - many.low, [row["top1_sd"] for row in result.rows(reading="cls")])


def test_models_side_by_side_draw_and_save(result, tmp_path):
    cnn = result.models[1]
    assert {row["reading"] for row in result.rows(model=cnn)} == {"patches", "first", "token"}
    assert np.isnan(result.by_model("top1")[cnn][:, [0, 2]]).all()
    assert result.by_model("token_top1")[cnn].shape == (5, 1, 1)
    seen = result.provenance.settings["seen"]
    assert seen["images"] == COUNT - 1  # one of them is in neither draw
    assert seen["notes"] == [
        "10 classes, 30 images to learn from, 10 of which were held out while strengths were compared, "
        "40 others to test on; chance is 10.0 %",
        "means over 2 such draws, top1_sd is their standard deviation",
    ]
    result.save(tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == {"probe", "models", "token"}
    assert json.loads((tmp_path / "out" / "result.json").read_text())["arrays"]["top1"][cnn][0][0] is None


def test_the_last_cls_knows_what_the_model_answers(tmp_path, folder, pixels):
    """Labels are the model's own answers: a linear map of the last CLS, up to the norm between them."""
    model = tiny_vit()
    with torch.no_grad():
        logits = model.module(model.preprocess(pixels))
    own = (logits - logits.mean(0))[:, :3].argmax(1).tolist()
    model.module.head.bias.data -= logits.mean(0)
    text = "".join(f"{index:02}.png,{label}\n" for index, label in enumerate(own))
    (tmp_path / "labels.csv").write_text(f"path,index\n{text}")
    images = vs.images(f"folder:{folder}", labels=tmp_path / "labels.csv")
    result = PROBE(model, images, shots=0, tokens=0, draws=1)
    found = result.rows(site="blocks.2", reading="cls")[0]["top1"]
    assert found > 75
    assert found > 100 * max(map(own.count, own)) / COUNT + 20
    assert "token_top1" not in result.arrays


def test_what_it_cannot_work_with_is_an_error(vit, folder, images):
    with pytest.raises(
        BadValue, match=r"the study 'probe' needs labels, and folder:.* has none. Give --labels"
    ):
        PROBE(vit, vs.images(f"folder:{folder}"))
    with pytest.raises(
        BadValue, match="tokens of at least 0, and weakest not above strongest, not 2 patterns, 4, 3"
    ):
        PROBE(vit, images, weakest=3, strongest=2)


def test_what_a_reader_must_know_is_noted(images):
    [drawn] = few_shots(images, shots=2, test=0.5, held_out=0.5)
    parts = [replace(drawn, left_out=3, fewest=1)]
    spoiled = Several((Probed({}, {}, (), ()), Probed({}, {}, (), ("blocks.1",))))
    assert _notes(parts, {"mine": spoiled})[1:] == [
        "3 classes are left out: they have no two different images",
        "classes have 1 to 2 images to learn from",
        "mine: not all activations of blocks.1 are finite; such images teach nothing and are never right",
    ]


def test_single_places_are_spread_over_the_last_grid(cnn, vit):
    readouts = probes_of(list(vit.sites("blocks.*"))[:1], 3)
    assert [readout.tokens for readout in readouts][4:] == [
        f"{row},{column}" for row in (0, 2, 3) for column in (0, 2, 3)
    ]
    assert {readout.grid for readout in probes_of(list(cnn.sites("stages.*.*")), 3)} == {(1, 1)}
    assert [readout.tokens for readout in probes_of([cnn.sites.named("pooled")], 3)] == ["all"]
