"""`atlas.json`: round trip, comparison, folder names, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.atlas.conftest import manifest

from vitscope.atlas.manifest import Manifest, SiteLayout, folder_names
from vitscope.errors import AtlasError
from vitscope.provenance import explain

HERE = Path("x.atlas/atlas.json")


def test_round_trip():
    text = manifest().to_json()
    assert Manifest.from_json(text, path=HERE) == manifest()
    assert Manifest.from_json(text, path=HERE).to_json() == text


def test_explain_reads_it(tmp_path):
    (tmp_path / "atlas.json").write_text(manifest().to_json())
    assert explain(tmp_path) == manifest().provenance


def test_fault_057_differences_name_both_values():
    asked = manifest(k=5, dreams=None, sites=(replace(manifest().sites[0], units=301), manifest().sites[1]))
    assert manifest().differences(asked) == [
        "dreams: absent there, null asked",
        "dreams.count: 1 there, absent asked",
        'dreams.recipe.name: "quick" there, absent asked',
        "dreams.seed: 0 there, absent asked",
        "k: 2 there, 5 asked",
        "sites.blocks.1.ffn.units: 300 there, 301 asked",
    ]


def test_versions_device_and_the_name_of_the_source_may_change():
    provenance = replace(manifest().provenance, versions={"torch": "99"}, device="cuda")
    assert manifest().differences(manifest(provenance=provenance, source={"name": "folder:moved"})) == []


def test_fault_096_other_weights_are_a_difference():
    provenance = replace(manifest().provenance, weights="sha256:ff")
    assert manifest().differences(manifest(provenance=provenance)) == [
        'provenance.weights: "sha256:00" there, "sha256:ff" asked'
    ]


def test_fault_070_newer_schema_is_refused_with_versions():
    text = json.dumps({**json.loads(manifest().to_json()), "schema": 99, "new": 1})
    with pytest.raises(AtlasError, match="schema version 99, this vitscope reads version 1"):
        Manifest.from_json(text, path=HERE)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "7", "null", '{"schema": 1}', '{"schema": 1, "sites": 3}']
)
def test_fault_071_bad_manifest_is_a_clear_error(text):
    with pytest.raises(AtlasError, match=r"x\.atlas/atlas\.json is (not the|a damaged) manifest"):
        Manifest.from_json(text, path=HERE)


@pytest.mark.parametrize("name", ["../../etc", "/etc", "", "a:3", "a/b", "a\\b", "\0", "..", "-x"])
def test_fault_075_a_site_that_is_no_site_name_is_refused(name):
    document = json.loads(manifest().to_json())
    document["sites"][0]["name"] = name
    with pytest.raises(AtlasError, match="damaged manifest"):
        Manifest.from_json(json.dumps(document), path=HERE)


def test_folders_sort_as_the_sites_do():
    names = [f"blocks.{block}.ffn" for block in range(12)]
    folders = [folder_names(names)[name] for name in names]
    assert folders[0] == "blocks.00.ffn"
    assert folders == sorted(folders)


WORD = st.text("aAbB019_", min_size=1, max_size=4)
NAME = st.builds(
    lambda words, call: ".".join(words) + call,
    st.lists(WORD, min_size=1, max_size=3),
    st.sampled_from(["", "~1", "~2"]),
)


@given(st.lists(NAME, unique=True, max_size=12))
def test_two_sites_never_share_a_folder(names):
    folders = [folder.casefold() for folder in folder_names(names).values()]
    assert len(set(folders)) == len(names)
    assert not any(set(folder) & set("/\\:") or folder.startswith(".") for folder in folders)


def test_leaves_and_places():
    site = SiteLayout("blocks.1.ffn", "image token unit", 300, (2, 3), 2)
    assert [list(site.members(leaf)) for leaf in range(site.leaves)] == [
        list(range(256)),
        list(range(256, 300)),
    ]
    assert [site.place_name(place) for place in range(8)] == [
        "cls",
        "",
        "0,0",
        "0,1",
        "0,2",
        "1,0",
        "1,1",
        "1,2",
    ]
    assert SiteLayout("logits", "image unit", 5).place_name(0) == ""
