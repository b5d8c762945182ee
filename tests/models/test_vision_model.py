"""Sites, places, addresses, preprocessing and fingerprints of a model."""

from dataclasses import replace
from io import StringIO

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from vitscope.errors import BadAddress, UnknownAddress, UnknownSite
from vitscope.models import load
from vitscope.models.vision_model import MAP, TOKENS, VECTOR, Preprocessing, Site, Sites
from vitscope.testing import tiny_cnn, tiny_vit

MODEL = tiny_vit()
SITE = Site("blocks.0", "blocks.0", TOKENS, 24, grid=(2, 3), prefix_tokens=2)


@given(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.data())
def test_places_count_prefix_tokens_first_and_the_grid_in_raster_order(prefix, rows, columns, data):
    site = Site("x", "x", TOKENS, 1, grid=(rows, columns), prefix_tokens=prefix)
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    index = site.place_index(f"{row},{column}")
    assert index == prefix + row * columns + column < site.places
    assert site.place_index(str(row * columns + column)) == index
    assert site.place_index("center") == prefix + (rows // 2) * columns + columns // 2


def test_cls_is_the_first_prefix_token_and_a_vector_has_one_place():
    assert SITE.place_index("cls") == 0
    assert Site("logits", "", VECTOR, 10).places == 1
    assert Site("x", "x", TOKENS, 8, prefix_tokens=7).places == 7


@pytest.mark.parametrize("place", ["2,0", "0,3", "6"])
def test_a_place_outside_the_grid_is_an_error(place):
    with pytest.raises(UnknownAddress, match=rf"no place '{place}' at blocks\.0: its grid is 2 x 3"):
        SITE.place_index(place)


def test_cls_is_an_error_where_there_is_no_prefix():
    with pytest.raises(UnknownAddress, match=r"stages\.0\.0 has no cls place: it has no prefix tokens"):
        tiny_cnn().site("stages.0.0@cls")


def test_a_unit_outside_its_site_is_an_error():
    assert MODEL.site("blocks.1.ffn:95").units == 96
    with pytest.raises(UnknownAddress, match=r"no unit 96 at blocks\.1\.ffn: it has 96 units \(0\.\.95\)"):
        MODEL.site("blocks.1.ffn:96")
    with pytest.raises(BadAddress):
        MODEL.site("blocks..1")


def test_fault_050_a_wrong_site_name_gives_near_names():
    with pytest.raises(UnknownSite) as caught:
        MODEL.site("block.1.ffn:4")
    assert str(caught.value).startswith(
        f"no site 'block.1.ffn' in {MODEL.name} (40 sites). Nearest: 'blocks.1.ffn'"
    )
    assert f"List them: vitscope sites {MODEL.name}" in str(caught.value)


def test_fault_050_a_wrong_raw_name_gives_near_raw_names():
    with pytest.raises(UnknownSite, match=r"Nearest: .*'blocks\.1\.mlp\.fc1'"):
        MODEL.site("blocks.1.mlp.fc_1")


def test_a_star_stands_for_one_name_and_two_for_any_number():
    names = [site.name for site in MODEL.sites("blocks.*.ffn")]
    assert names == ["blocks.0.ffn", "blocks.1.ffn", "blocks.2.ffn"]
    assert [site.name for site in MODEL.sites("blocks.?")] == ["blocks.0", "blocks.1", "blocks.2"]
    assert len(MODEL.sites("blocks.1.**")) == 11
    assert len(MODEL.sites()) == len(MODEL.sites) == 40
    assert [site.name for site in MODEL.sites("blocks.*.mlp.fc1")] == [
        f"blocks.{i}.mlp.fc1" for i in range(3)
    ]
    assert [site.name for site in MODEL.sites("blocks.*.ffn")("blocks.2.*")] == ["blocks.2.ffn"]


def test_a_glob_that_matches_nothing_is_an_error():
    with pytest.raises(UnknownSite, match=r"no site 'block\.\*' in"):
        MODEL.sites("block.*")


def test_notes_stand_in_the_error():
    sites = Sites([SITE], model="m", notes=("no pooled: for a reason",))
    with pytest.raises(UnknownSite, match="Note: no pooled: for a reason"):
        sites.named("pooled")


def test_the_table_of_sites_is_shown_in_terminal_and_notebook():
    console = Console(width=120, file=StringIO())
    console.print(MODEL.sites("blocks.*.ffn"))
    assert "blocks.2.ffn" in console.file.getvalue()
    hostile = Sites([Site("<script>", "a", MAP, 3, grid=(2, 2))])
    assert "<script>" not in hostile._repr_html_()
    assert "&lt;script&gt;" in hostile._repr_html_()
    assert repr(MODEL.sites("blocks.*.ffn")).startswith("<3 sites of ")


def test_a_site_describes_itself_in_json_words():
    assert SITE.describe() == {
        "name": "blocks.0",
        "axes": "image token unit",
        "units": 24,
        "grid": [2, 3],
        "prefix_tokens": 2,
        "path": "blocks.0",
        "function": None,
        "recomputed": False,
    }


def test_a_site_inside_a_module_says_at_which_function():
    inside = replace(SITE, function="scaled_dot_product_attention", recomputed=True)
    assert inside.whereabouts == "blocks.0: recomputed from scaled_dot_product_attention"
    assert (SITE.whereabouts, replace(SITE, path="").whereabouts) == ("blocks.0", "(model)")


def test_preprocessing_normalises_by_channel_and_keeps_gradients():
    facts = Preprocessing((4, 4), None, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    pixels = torch.full((1, 3, 4, 4), 0.6, requires_grad=True)
    got = facts.normalise(pixels)
    assert got[0, :, 1, 1].tolist() == pytest.approx([1.0, 1.6, 0.15])
    got.sum().backward()
    assert pixels.grad[0, :, 0, 0].tolist() == pytest.approx([2.0, 4.0, 0.5])
    assert facts.describe()["mean"] == [0.1, 0.2, 0.3]


def test_the_fingerprint_is_that_of_the_weights():
    assert tiny_vit(depth=1).fingerprint == tiny_vit(depth=1).fingerprint
    assert tiny_vit(depth=1).fingerprint != tiny_vit(depth=1, seed=1).fingerprint
    other = tiny_vit(depth=1).module
    other.blocks[0].mlp.fc1.weight.data[3, 4] += 1e-3
    assert load(other, sample=(32, 32), device="cpu").fingerprint != tiny_vit(depth=1).fingerprint


def test_moving_a_model_keeps_its_fingerprint():
    model = tiny_vit(depth=1)
    before = model.fingerprint
    assert model.to("cpu", torch.bfloat16).fingerprint == before
    assert model.dtype == torch.bfloat16
    assert model.preprocess(torch.rand(1, 3, 32, 32)).dtype == torch.bfloat16
    assert repr(model).startswith(f"<VisionModel {model.name}: 16 sites, sha256:")
