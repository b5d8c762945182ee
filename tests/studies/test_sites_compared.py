"""Sites compared by their dreams: every number again from the dreams themselves, slowly."""

import math

import numpy as np
import pytest
import torch

from vitscope.data import images
from vitscope.dream import dream
from vitscope.errors import BadValue, UnknownName, Unsuited
from vitscope.studies import open_result, study
from vitscope.studies.appearance import features, from_text
from vitscope.studies.dreamt import short
from vitscope.testing.doubles import tiny_cnn, tiny_vit

KINDS = ("ffn", "attn.q", "attn.k", "attn.v")
SETTINGS = {"units": 4, "steps": 2, "copies": 1, "seed": 3}


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    """A source: dreams need no images."""
    folder = tmp_path_factory.mktemp("nothing")
    (folder / "a.png").write_bytes(b"not even one")
    return images(f"folder:{folder}")


@pytest.fixture(scope="module")
def result(vit, nothing, tmp_path_factory):
    kept = tmp_path_factory.mktemp("kept")
    return study("sites_compared", [vit, tiny_cnn()], nothing, keep=str(kept), **SETTINGS)


@pytest.fixture(scope="module")
def again(vit, result):
    """Every dream made anew: kind -> early, late -> pictures of bytes."""
    recipe = short("vitscope", steps=2, copies=1)
    units = result.by_model("units")[result.models[0]]
    addresses = [
        f"blocks.{2 * end}.{kind}:{number}"
        for kind, of in zip(KINDS, units.tolist(), strict=True)
        for end, numbers in enumerate(of)
        for number in numbers
    ]
    made = dream(vit, addresses, recipe=recipe, seed=3)
    assert all(one.trust["status"] == "ok" for one in made)
    pictures = np.stack([(one.pixels.permute(1, 2, 0).numpy() * 255).round() for one in made])
    found = pictures.astype(np.uint8).reshape(len(KINDS), 2, -1, 32, 32, 3)
    return dict(zip(KINDS, found, strict=True))


def share(pixels):
    """Power beyond 1/8 of a cycle per pixel, in per cent, over all coefficients."""
    values = pixels / 255 - (pixels / 255).mean(axis=(0, 1))
    power = (np.abs(np.fft.fft2(values, axes=(0, 1))) ** 2).sum(axis=2)
    far = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)[None])
    return 100 * power[far > 0.125].sum() / power.sum()


def test_shares_of_high_frequency_are_those_of_the_dreams(result, again):
    (model, _) = result.models
    table = result.by_model("high_frequency")[model]
    for row, kind in enumerate(KINDS):
        for which, end in enumerate(("early", "late")):
            expected = [share(pixels) for pixels in again[kind][which]]
            assert table[row, which] == pytest.approx(expected, rel=0.02)
            (one,) = result.rows(model=model, part="block", kind=kind, end=end)
            assert one["high_frequency"] == pytest.approx(table[row, which].mean())
            assert one["high_frequency_low"] < one["high_frequency"] < one["high_frequency_high"]
            assert (one["units"], one["left_out"]) == (4, 0)
            assert one["site"] == f"blocks.{2 * which}.{kind}"
        (whole,) = result.rows(model=model, part="kind", kind=kind)
        assert whole["high_frequency"] == pytest.approx(table[row].mean())
        assert whole["units"] == 8


def test_deltas_are_counted_in_pairs_against_the_ffn_of_the_same_block(result):
    model = result.models[0]
    table = result.by_model("high_frequency")[model]
    for row, kind in enumerate(KINDS[1:], start=1):
        deltas = []
        for which, end in enumerate(("early", "late")):
            pairs = [np.sign(a - b) for a in table[row, which] for b in table[0, which]]
            deltas.append(sum(pairs) / len(pairs))
            (one,) = result.rows(model=model, part="block", kind=kind, end=end)
            assert one["delta"] == pytest.approx(deltas[-1])
            assert one["delta_low"] <= one["delta"] <= one["delta_high"]
        (whole,) = result.rows(model=model, part="kind", kind=kind)
        assert whole["delta"] == pytest.approx(sum(deltas) / 2)
    assert all("delta" not in row for row in result.rows(model=model, kind="ffn"))


def predicted(vectors):
    """How many of eight are right, each judged by a classifier of the other folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    late, right = np.arange(8) >= 4, 0
    for train, test in StratifiedKFold(4, shuffle=True, random_state=3).split(vectors, late):
        mean, spread = vectors[train].mean(axis=0), vectors[train].std(axis=0)
        spread[spread < 1e-9] = 1
        learnt = LogisticRegression(max_iter=1000).fit((vectors[train] - mean) / spread, late[train])
        right += int((learnt.predict((vectors[test] - mean) / spread) == late[test]).sum())
    return 100 * right / 8


def test_separability_is_that_of_folds_by_hand(vit, result, again):
    for kind in KINDS:
        pictures = [pixels for end in again[kind] for pixels in end]
        (row,) = result.rows(model=result.models[0], part="kind", kind=kind)
        assert row["separability"] == predicted(np.stack([features(pixels) for pixels in pictures]))
        with torch.no_grad():
            shown = torch.from_numpy(np.stack(pictures) / 255).permute(0, 3, 1, 2).float()
            tokens = vit.module.forward_features(vit.preprocess(shown))
            pooled = vit.module.forward_head(tokens, pre_logits=True).numpy()
        assert row["separability_own"] == predicted(pooled)


def test_the_interface(result):
    first = "model part kind end site units left_out high_frequency high_frequency_low high_frequency_high"
    delta = " delta delta_low delta_high"
    last = (
        " separability separability_low separability_high"
        " separability_own separability_own_low separability_own_high"
    )
    kind = first.replace("end site ", "")
    for row in result.table:
        expected = first if row["part"] == "block" else kind
        expected += delta if row["kind"] != "ffn" else ""
        expected += last if row["part"] == "kind" else ""
        assert list(row) == expected.split()
    assert len(result.table) == 12
    shapes = {name: array.shape for name in result.arrays for array in result.by_model(name).values()}
    assert shapes == {
        "kinds": (4,),
        **dict.fromkeys(("units", "status", "high_frequency", "dreams"), (4, 2, 4)),
    }
    dreams = result.by_model("dreams")[result.models[0]]
    assert {from_text(text).shape for text in dreams.ravel().tolist()} == {(32, 32, 3)}


def test_a_model_without_such_sites_is_left_out_and_named(result):
    notes = result.provenance.settings["seen"]["notes"]
    assert f"{result.models[1]} is left out: it has none of ffn, attn.q, attn.k, attn.v" in notes
    assert any("was not read: dreams need no images" in note for note in notes)


def test_models_side_by_side_are_each_as_alone(vit, nothing, tmp_path):
    settings = {"kinds": ("branch", "0"), "units": 2, "steps": 1, "copies": 1}
    both = study("sites_compared", [tiny_cnn(), tiny_cnn(seed=1)], nothing, **settings)
    alone = study("sites_compared", tiny_cnn(seed=1), nothing, **settings)
    second = [{**row, "model": alone.models[0]} for row in both.rows(model=both.models[1])]
    np.testing.assert_equal(second, list(alone.table))
    assert set(both.figures()) == {f"dreams.{name}" for name in ("ResNet", "ResNet_2_")}


def test_dead_units_are_counted_and_left_out(nothing):
    model = tiny_vit()
    model.module.blocks[0].mlp.fc1.weight.data[:] = 0
    result = study("sites_compared", model, nothing, kinds=("attn.q", "ffn"), units=2, steps=2, copies=1)
    (dead,) = result.rows(part="block", kind="ffn", end="early")
    assert (dead["units"], dead["left_out"]) == (0, 2)
    assert math.isnan(dead["high_frequency"])
    assert math.isnan(dead["delta"])
    (whole,) = result.rows(part="kind", kind="ffn")
    (late,) = result.rows(part="block", kind="ffn", end="late")
    assert (whole["units"], whole["left_out"], whole["delta"]) == (2, 2, late["delta"])
    assert math.isnan(whole["separability"])
    assert (result.by_model("status")[result.models[0]][1, 0] == "dead").all()
    assert len(result.figures()) == 1


def test_a_saved_result_draws_the_same_figure(result, tmp_path):
    saved = open_result(result.save(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["dreams.png"]
    ours, theirs = (one.plot().axes for one in (result, saved))
    assert len(ours) == len(theirs) == 4 * (2 * 5 + 2)
    assert [line.get_xdata().tolist() for line in ours[10].lines] == [
        line.get_xdata().tolist() for line in theirs[10].lines
    ]


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"kinds": ("ffn",)}, BadValue, "needs two kinds of sites"),
        ({"early": 0.9, "late": 0.1}, BadValue, "0 <= early <= late <= 1, not ffn, .* 0.9 and 0.1"),
        (
            {"kinds": ("ffn", "fnf")},
            Unsuited,
            "no model has sites that end in 'ffn' and in another of ffn, fnf",
        ),
        ({"recipe": "vitscop"}, UnknownName, "no recipe 'vitscop'"),
        ({"units": 0}, BadValue, "at least 1, not 0"),
    ],
)
def test_settings_that_make_no_sense(vit, nothing, settings, error, says):
    with pytest.raises(error, match=says):
        study("sites_compared", vit, nothing, **settings)
