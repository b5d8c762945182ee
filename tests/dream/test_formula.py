"""Objectives as text: what `repr` prints is read back, images by their files, and mistakes are named."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitscope.dream.formula import parse
from vitscope.dream.heads import attention, head
from vitscope.dream.likeness import caricature, distance, inversion
from vitscope.dream.objectives import channel, direction, logit, unit
from vitscope.errors import BadAddress, BadValue, MissingPath
from vitscope.testing import tiny_vit

READOUTS = [
    unit("blocks.5.ffn:40"),
    unit("blocks.5.ffn:40@7,9"),
    unit("blocks.5.ffn:40", where="left"),
    unit("blocks.5.ffn:40", where="2:5,0:4"),
    unit("layer4.2.relu~3:1@cls"),
    logit(207),
    logit("tabby, tabby cat"),
    logit("jack-o'-lantern"),
    logit("crane (a bird)"),
    head("blocks.5", 2),
    head("blocks.5@3,4", 2),
    head("blocks.5.attn", 0, where="prefix"),
    attention("blocks.5", 2),
    attention("blocks.5", 1, queries="cls", keys="2:5,0:4"),
]
WEIGHTS = st.floats(-1e6, 1e6, allow_nan=False).filter(lambda weight: abs(weight) > 1e-9)
SUMS = st.lists(st.tuples(WEIGHTS, st.sampled_from(READOUTS)), min_size=1, max_size=4)


@pytest.fixture
def dog(tmp_path):
    path = tmp_path / "dog, spot (1).png"
    Image.effect_noise((40, 40), 60).convert("RGB").save(path)
    return path


@given(SUMS)
def test_what_repr_prints_is_read_back(terms):
    objective = math.nan
    for weight, readout in terms:
        objective = weight * readout if objective is math.nan else objective + weight * readout
    assert parse(repr(objective)) == objective
    assert parse(objective.text) == objective


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("blocks.5.ffn:40", unit("blocks.5.ffn:40")),
        (" -blocks.5.ffn:40", -unit("blocks.5.ffn:40")),
        ("blocks.5.ffn:40-blocks.5.ffn:41", unit("blocks.5.ffn:40") - unit("blocks.5.ffn:41")),
        ("+1e4 * attention(blocks.5,2)", 1e4 * attention("blocks.5", 2)),
        ("2*logit('tabby cat') - 0.5*logits:3", 2 * logit("tabby cat") - 0.5 * unit("logits:3")),
        ("channel(blocks.5.ffn:40@3,4)", channel("blocks.5.ffn:40@3,4")),
        ("head(blocks.5,2)", head("blocks.5", 2)),
    ],
)
def test_formulas_as_people_write_them(text, objective):
    assert parse(text) == objective


def test_the_value_is_that_of_the_algebra():
    model = tiny_vit()
    site = model.site("blocks.1.ffn")
    activations = torch.zeros(1, site.places, site.units)
    activations[..., 1], activations[..., 2] = 1, 10
    objective = parse("0.5*blocks.1.ffn:1 + 2*blocks.1.ffn:2")
    assert objective.score(model, {"blocks.1.ffn": activations}).item() == 20.5


def test_images_are_named_by_their_files(dog):
    assert parse(f'distance(blocks.1, "{dog}", relative)') == distance("blocks.1", dog, relative=True)
    assert parse(f"inversion(blocks.1, '{dog}')") == inversion("blocks.1", dog)
    plain = dog.rename(dog.with_name("dog.png"))
    assert parse(f"caricature(blocks.1, {plain})") == caricature("blocks.1", plain)
    both = parse(f"logits:3 + caricature(blocks.1, {plain}, power 0.5)")
    assert both == unit("logits:3") + caricature("blocks.1", plain, power=0.5)
    with pytest.raises(BadValue, match=r"'image #3f8a11c2' is a mark, .* name the file it came from"):
        parse("distance(blocks.1, image #3f8a11c2)")
    with pytest.raises(MissingPath, match=r"no such file: cat.png"):
        parse("distance(blocks.1, cat.png)")


def test_a_direction_is_a_file_of_numbers(tmp_path):
    path = tmp_path / "probe.npy"
    np.save(path, np.array([1.0, -2.0, 0.5]))
    assert parse(f"direction(blocks.1, {path}, top)") == direction("blocks.1", [1.0, -2.0, 0.5], where="top")
    np.save(path, np.zeros((2, 3)))
    with pytest.raises(BadValue, match=r"a direction is one row of numbers; .* holds \(2, 3\)"):
        parse(f"direction(blocks.1, {path})")
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadValue, match=r"cannot read .* as a .npy file"):
        parse(f"direction(blocks.1, {path})")
    with pytest.raises(MissingPath, match=r"no such file: none.npy"):
        parse("direction(blocks.1, none.npy)")


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("", 0, "an address"),
        ("0.5*", 4, "an address"),
        ("blocks.5.ffn:4 +", 16, "an address"),
        ("blocks.5.ffn:4 ++ blocks.5.ffn:5", 16, "an address"),
        ("blocks.5.ffn:4 blocks.5.ffn:5", 15, "[+] or - between two terms"),
        ("blocks.5.ffn:4*2", 14, "[+] or - between two terms"),
        ("head(blocks.5, 2) starting from image", 18, "[+] or - between two terms"),
    ],
)
def test_a_caret_shows_where_a_formula_stops(text, column, expected):
    with pytest.raises(BadValue, match=f"expected {expected}") as caught:
        parse(text)
    first, second = str(caught.value).splitlines()
    assert first == f"not an objective: {text!r}"
    assert second.index("^") - len("not an objective: '") == column


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("heads(blocks.5, 2)", r"no function 'heads'\. Nearest: 'head'.*\n  unit\(ADDRESS\[, WHERE\]\)"),
        ("head(blocks.5)", r"head is written head\(BLOCK, NUMBER\[, WHERE\]\), not 'head\(blocks\.5\)'"),
        ("attention(blocks.5, 2, cls)", r"attention is written .*QUERIES -> KEYS"),
        ("distance(blocks.5, a.png, near)", r"distance is written .*relative"),
        ("unit(blocks.5.ffn:4", r"unit is written unit\(ADDRESS\[, WHERE\]\)"),
    ],
)
def test_functions_say_how_they_are_written(text, message):
    with pytest.raises(BadValue, match=message):
        parse(text)


def test_addresses_complain_for_themselves():
    with pytest.raises(BadAddress, match="names a site but no unit"):
        parse("2*blocks.5.ffn")
    with pytest.raises(BadAddress, match=r"not an address: 'blocks\.\.5:1'"):
        parse("logits:3 + blocks..5:1")
    with pytest.raises(BadAddress, match=r"a head has many units: write 'blocks.5'"):
        parse("head(blocks.5:1, 2)")
