"""`verify` names what is damaged, down to the unit."""

import json

import pytest
from tests.atlas.conftest import image_of, leaf_files, manifest

from vitscope.atlas.leaf import UnitRow, table_bytes, unit_table
from vitscope.atlas.store import Store
from vitscope.atlas.verify import verify
from vitscope.errors import AtlasError


def test_a_whole_atlas_is_ok(store):
    report = verify(store.root)
    assert (report.ok, report.leaves, report.damaged, report.missing) == (True, 3, (), ())
    assert json.loads(json.dumps(report.describe()))["damaged"] == []
    assert report.sentence() == "3 leaves are whole; 0 findings of damage, 0 missing."


def test_leaves_not_built_are_missing_and_not_damaged(tmp_path):
    store = Store.prepare(tmp_path / "a", manifest())
    store.commit_leaf("logits", 0, leaf_files(store.layout("logits"), 0))
    report = verify(store.root)
    assert not report.ok
    assert report.leaves == 1
    assert report.damaged == ()
    assert "blocks.1.ffn units 256 to 299 (leaf 0001) is not built yet" in report.missing


@pytest.mark.parametrize("part", ["units.parquet", "exemplars.parquet", "pack", "sprite.webp", "ok"])
@pytest.mark.parametrize("harm", ["truncate", "flip", "delete"])
def test_fault_064_every_damage_is_named(store, part, harm):
    path = store.leaf_file("blocks.1.ffn", 1, part)
    content = bytearray(path.read_bytes())
    if harm == "delete":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if harm == "flip" else content[: len(content) // 2])
    report = verify(store.root)
    assert not report.ok
    assert report.leaves == 2
    assert "blocks.1.ffn units 256 to 299 (leaf 0001)" in (report.damaged + report.missing)[0]


def test_fault_064_a_flipped_byte_in_the_pack_names_the_unit(store):
    path = store.leaf_file("blocks.1.ffn", 1, "pack")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    lines = verify(store.root).damaged
    assert any("the dream of blocks.1.ffn:258 has other bytes than were written" in line for line in lines)


def test_rows_that_are_missing_or_there_twice_are_named(tmp_path):
    store = Store.prepare(tmp_path / "a", manifest())
    files = leaf_files(store.layout("logits"), 0)
    rows = [UnitRow.from_record(record) for record in unit_table(files["units.parquet"]).to_pylist()]
    wrong = table_bytes([*rows[:4], rows[3]], of=UnitRow)
    store.commit_leaf("logits", 0, {**files, "units.parquet": wrong})
    lines = " ".join(verify(store.root).damaged)
    assert "logits:3 is there 2 times" in lines
    assert "logits:4 is there 0 times" in lines


def test_an_ok_unit_without_exemplars_is_named(tmp_path):
    store = Store.prepare(tmp_path / "a", manifest())
    files = leaf_files(store.layout("logits"), 0)
    rows = [UnitRow.from_record(record) for record in unit_table(files["units.parquet"]).to_pylist()]
    rows[1] = UnitRow(**{**rows[1].__dict__, "status": "ok"})
    store.commit_leaf("logits", 0, {**files, "units.parquet": table_bytes(rows, of=UnitRow)})
    assert "logits:1 is ok but has no exemplars" in verify(store.root).damaged[0]


def test_fault_075_a_dream_outside_its_pack_is_named(tmp_path):
    store = Store.prepare(tmp_path / "a", manifest())
    store.commit_leaf("logits", 0, {**leaf_files(store.layout("logits"), 0), "pack": b"short"})
    assert "the dream of logits:2 lies outside its pack of 5 bytes" in verify(store.root).damaged[0]


def test_thumbnails_are_checked(store):
    gone, bad, known = (store.thumbnail_file(image_of(unit, 0)) for unit in range(3))
    gone.unlink()
    bad.write_bytes(b"<svg>")
    known.unlink()
    known.with_suffix(".skipped").write_text('{"path": "cat/1.png", "reason": "changed"}')
    report = verify(store.root)
    assert report.missing == (f"the thumbnail of {image_of(0, 0)}",)
    assert report.skipped == (f"the thumbnail of {image_of(2, 0)}: cat/1.png: changed",)
    assert report.damaged[0].startswith(f"the thumbnail of {image_of(1, 0)} is not a WebP picture")


def test_fault_071_no_atlas_at_all(tmp_path):
    with pytest.raises(AtlasError, match="is not an atlas"):
        verify(tmp_path)
