"""Reading an atlas: units, leaves, pictures, neighbours, and damage that stays where it is."""

import io
import json
import shutil
import threading

import numpy as np
import pytest
from PIL import Image
from tests.atlas.conftest import leaf_files, manifest, picture

from vitscope.address import Address
from vitscope.atlas.leaf import DreamRow, UnitRow, digest, table_bytes, unit_table
from vitscope.atlas.read import Atlas
from vitscope.atlas.store import Store
from vitscope.errors import AtlasError, BadAddress, BadValue, UnknownAddress, UnknownSite


@pytest.fixture
def atlas(store) -> Atlas:
    return Atlas.open(store.root)


def test_what_an_atlas_says_of_itself(atlas):
    assert (atlas.name, atlas.model, atlas.source, atlas.complete) == ("tiny", "tiny", "folder:photos", True)
    assert [(site.name, site.units, site.leaves, site.finished) for site in atlas.sites] == [
        ("blocks.1.ffn", 300, 2, 2),
        ("logits", 5, 1, 1),
    ]
    assert atlas.manifest["k"] == 2
    assert repr(atlas) == "<Atlas tiny: 305 units at 2 sites of tiny over folder:photos>"
    assert "<td>blocks.1.ffn</td><td>300</td>" in atlas._repr_html_()


def test_a_unit(atlas):
    unit = atlas["blocks.1.ffn:258@0,1"]
    assert unit.address == Address("blocks.1.ffn", 258)
    assert unit.status == "ok"
    assert unit.statistics["variance"] == 0.25
    assert unit.histogram.counts == (1, 20, 3)
    assert [(e.rank, e.value, e.place, e.path) for e in unit.exemplars] == [
        (0, 9.0, "0,0", "cat/0.png"),
        (1, 8.0, "0,1", "cat/1.png"),
    ]
    assert [e.place for e in unit.by_mean] == ["", ""]
    np.testing.assert_array_equal(unit.exemplars[0].map, np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert unit.dreams[0].image == picture(2)
    assert unit.dreams[0].trust == {"robust": 0.5}


def test_show_is_strict_json(atlas):
    found = atlas["blocks.1.ffn:3"].describe()
    assert found["statistics"]["variance"] is None
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text)["exemplars"][0].keys() == {"rank", "image", "path", "value", "place"}
    assert set(found) == {"address", "status", "statistics", "exemplars", "sampled", "dreams"}
    dead = atlas["blocks.1.ffn:1"].describe()
    assert (dead["status"], dead["exemplars"], dead["dreams"]) == ("dead", [], [])


def test_a_site_without_a_grid_has_no_maps(atlas):
    assert [(e.map, e.place) for e in atlas["logits:0"].exemplars] == [(None, ""), (None, "")]


def test_leaves(atlas):
    leaf = atlas.leaf("blocks.1.ffn", 1)
    assert [row.unit for row in leaf.units] == list(range(256, 300))
    assert [row.unit for row in leaf.units if row.has_dream] == [258]
    assert atlas.leaf("blocks.1.ffn", 1) is leaf
    with pytest.raises(UnknownAddress, match=r"no leaf 2 at blocks\.1\.ffn: it has 2 \(0\.\.1\)"):
        atlas.leaf("blocks.1.ffn", 2)


def test_pictures(atlas):
    assert Image.open(io.BytesIO(atlas.sprite("logits", 0))).size == (1024, 1024)
    assert atlas.thumbnail(atlas["logits:0"].exemplars[1].image) == picture(1)
    with pytest.raises(AtlasError, match="tiny has no thumbnail of image ffff"):
        atlas.thumbnail("f" * 32)
    with pytest.raises(BadValue, match="not an image id"):
        atlas.thumbnail("../atlas.json")


def test_neighbours(atlas):
    texts = {
        "blocks.1.ffn:0": (None, "blocks.1.ffn:1"),
        "blocks.1.ffn:255": ("blocks.1.ffn:254", "blocks.1.ffn:256"),
        "blocks.1.ffn:299": ("blocks.1.ffn:298", "logits:0"),
        "logits:0": ("blocks.1.ffn:299", "logits:1"),
        "logits:4": ("logits:3", None),
    }
    for address, expected in texts.items():
        assert tuple(side and str(side) for side in atlas.neighbours(address)) == expected


def test_what_does_not_exist(atlas):
    with pytest.raises(UnknownSite, match=r"no site 'blocks\.2\.ffn'.*Nearest: 'blocks\.1\.ffn'"):
        atlas["blocks.2.ffn:0"]
    with pytest.raises(UnknownAddress, match=r"no unit 300 at blocks\.1\.ffn: it has 300 units \(0\.\.299\)"):
        atlas["blocks.1.ffn:300"]
    with pytest.raises(BadAddress, match=r"logits names no unit: say which, such as logits:0"):
        atlas["logits"]


def test_fault_072_a_reader_during_a_write_sees_only_whole_units(tmp_path):
    store = Store.prepare(tmp_path / "a", manifest())
    atlas = Atlas.open(store.root)
    with pytest.raises(AtlasError, match=r"blocks\.1\.ffn units 0 to 255 \(leaf 0000\) is not built yet"):
        atlas["blocks.1.ffn:0"]
    assert not atlas.complete

    def write_all() -> None:
        for site, leaf in store.leaves():
            store.commit_leaf(site.name, leaf, leaf_files(site, leaf))

    writer = threading.Thread(target=write_all)
    writer.start()
    reasons = []
    while not atlas.complete:
        for address in ("blocks.1.ffn:0", "blocks.1.ffn:256", "logits:0"):
            try:
                assert len(atlas[address].exemplars) == 2
            except AtlasError as error:
                reasons.append(str(error))
    assert all("not built yet" in reason for reason in reasons)
    writer.join()
    assert [site.finished for site in atlas.sites] == [2, 1]


def test_fault_073_and_074_moved_onto_a_read_only_medium(store, tmp_path):
    shutil.move(store.root, tmp_path / "moved.atlas")
    paths = [tmp_path / "moved.atlas", *(tmp_path / "moved.atlas").rglob("*")]
    before = {path: path.stat().st_mtime_ns for path in paths}
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert Atlas.open(tmp_path / "moved.atlas")["logits:2"].dreams[0].image == picture(2)
        assert {path: path.stat().st_mtime_ns for path in paths} == before
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("part", ["units.parquet", "exemplars.parquet"])
def test_fault_064_a_damaged_leaf_fails_alone(store, part):
    path = store.leaf_file("blocks.1.ffn", 0, part)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    atlas = Atlas.open(store.root)
    with pytest.raises(
        AtlasError, match=rf"blocks\.1\.ffn units 0 to 255 \(leaf 0000\) is damaged: 0000\.{part}"
    ):
        atlas["blocks.1.ffn:0"]
    assert atlas["blocks.1.ffn:256"].status == "ok"


def test_fault_064_a_damaged_dream_fails_alone(store):
    path = store.leaf_file("logits", 0, "pack")
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    atlas = Atlas.open(store.root)
    with pytest.raises(AtlasError, match=r"logits:2 is damaged: its dream in 0000\.pack has other bytes"):
        atlas["logits:2"]
    assert atlas["logits:3"].status == "ok"


@pytest.mark.parametrize("bad", ["beyond the pack", "before the pack", "html"])
def test_fault_075_a_malicious_pack_is_refused(tmp_path, bad):
    store = Store.prepare(tmp_path / "a", manifest())
    files = leaf_files(store.layout("logits"), 0)
    html = b"<svg onload=alert(1)>"
    offset, size = {"beyond the pack": (10, 1 << 40), "before the pack": (-5, 5), "html": (0, len(html))}[bad]
    row = UnitRow.from_record(unit_table(files["units.parquet"]).to_pylist()[2])
    dream = DreamRow("quick", 0, 1.0, 1.0, "{}", "ok", offset, size, digest(html))
    rows = [UnitRow.from_record(record) for record in unit_table(files["units.parquet"]).to_pylist()]
    rows[2] = UnitRow(**{**row.__dict__, "dreams": (dream,)})
    store.commit_leaf("logits", 0, {**files, "units.parquet": table_bytes(rows, of=UnitRow), "pack": html})
    with pytest.raises(AtlasError, match="logits:2 is damaged"):
        Atlas.open(store.root)["logits:2"]


def test_fault_075_a_thumbnail_that_is_no_picture_is_refused(store, atlas):
    image = atlas["logits:0"].exemplars[0].image
    store.thumbnail_file(image).write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(AtlasError, match="is damaged: not a WebP picture"):
        atlas.thumbnail(image)
