"""Atlases by name, and the links between their pages."""

import json
import shutil
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitscope.address import Address
from vitscope.errors import UnknownSite
from vitscope.viewer.shelf import Shelf, Volume, made_from, plain, shelf_mark


def test_atlases_of_one_name_are_told_apart(make_atlas):
    one, two = make_atlas("x/demo.atlas"), make_atlas("y/demo.atlas")
    shelf = Shelf([one, two])
    assert [volume.slug for volume in shelf] == ["demo", "demo-2"]
    assert shelf.get("demo-2").atlas is two
    assert shelf.get("../demo") is None
    assert len(shelf) == 2


def test_a_hostile_folder_name_becomes_a_harmless_one(make_atlas):
    (volume,) = Shelf([make_atlas('A "b"<script>#?.atlas')])
    assert volume.slug == "a-b-script"


@given(st.text(min_size=1, max_size=40))
def test_links_keep_any_name_in_one_part_of_the_path(atlas, name):
    link = urlsplit(Volume("tiny", atlas).to("site", name, "2.html"))
    assert link.query == ""
    assert link.path.count("/") == 4
    assert unquote(link.path) == f"a/tiny/site/{name}/2.html"


def test_links_lead_to_a_units_page_and_back_to_its_place_in_the_grid(atlas):
    volume = Volume("tiny", atlas)
    assert volume.unit(Address("blocks.0.ffn", 299)) == "a/tiny/unit/blocks.0.ffn/299.html"
    assert volume.unit("blocks.0.ffn:3@1,1") == "a/tiny/unit/blocks.0.ffn/3.html"
    assert volume.page(Address("blocks.0.ffn", 255)) == "a/tiny/site/blocks.0.ffn/1.html#u255"
    assert volume.page(Address("blocks.0.ffn", 256)) == "a/tiny/site/blocks.0.ffn/2.html#u256"


@pytest.mark.parametrize(("images", "digits"), [(1, 1), (256, 1), (257, 2), (4096, 2), (4097, 3), (10**7, 3)])
def test_images_share_pages_of_about_sixteen_and_at_most_4096(images, digits):
    assert shelf_mark("0123456789abcdef", images) == "0123"[:digits]


def test_a_complete_atlas_is_looked_at_once_and_a_growing_one_again(atlas, make_atlas):
    volume = Volume("tiny", atlas)
    assert volume.sites is volume.sites
    growing = Volume("own", make_atlas(without=("logits/0000.ok",)))
    assert growing.site("logits").finished == 0
    shutil.copy(atlas.path / "sites/logits/0000.ok", growing.atlas.path / "sites/logits/0000.ok")
    assert growing.site("logits").finished == 1


def test_an_unknown_site_names_the_nearest(atlas):
    with pytest.raises(
        UnknownSite, match=r"no site 'blocks.0.fn' in tiny \(2 sites\). Nearest: 'blocks.0.ffn'"
    ):
        Volume("tiny", atlas).site("blocks.0.fn")


def test_pictures_of_another_atlas_have_another_address(atlas, make_atlas):
    other = make_atlas("tiny.atlas", model="other")
    assert Volume("tiny", atlas).picture("thumbnail", "0") != Volume("tiny", other).picture("thumbnail", "0")


def test_plain_values_are_strict_json():
    value = plain({"a": float("nan"), "b": (1, float("inf")), 3: {"c": -0.5}})
    assert json.loads(json.dumps(value, allow_nan=False)) == {"a": None, "b": [1, None], "3": {"c": -0.5}}


def test_how_an_atlas_was_made_is_told_in_words(atlas):
    facts = made_from(atlas.manifest)
    assert facts["dreams"] == "1 a site by ghiasi_2022, seed 7"
    assert facts["input"] == "32 × 32 pixels, bicubic"
    assert "licence" not in facts


def test_licences_and_recipes_are_told_in_words(atlas):
    manifest = dict(atlas.manifest)
    manifest["source"] = {**manifest["source"], "licence": {"cat": "CC0", "rocket": "public domain"}}
    recipe = {"name": "olah_2017", "citation": "Olah et al. 2017"}
    manifest["dreams"] = {"count": 3, "recipe": recipe, "seed": 7}
    facts = made_from(manifest)
    assert facts["licence"] == "cat: CC0; rocket: public domain"
    assert facts["dreams"] == "3 a site by olah_2017 (Olah et al. 2017), seed 7"
    manifest["dreams"] |= {"count": "all", "beside": [{"name": "mine", "citation": "me"}], "repeats": 2}
    told = "all units by olah_2017 (Olah et al. 2017) and mine (me), 2 of a unit by each, from seed 7"
    assert made_from(manifest)["dreams"] == told
