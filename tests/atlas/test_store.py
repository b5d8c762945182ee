"""Committing and checking leaves, parts and thumbnails: `vitscope.atlas.store`."""

import os
import shutil

import numpy as np
import pytest
from tests.atlas.conftest import leaf_files, manifest

from vitscope.atlas import commit
from vitscope.atlas.store import ABSENT, Store, read_arrays, write_arrays
from vitscope.errors import AtlasError, BadValue, UnknownSite


def test_a_complete_atlas_has_no_fault(store):
    assert {store.fault(site.name, leaf, read=True) for site, leaf in store.leaves()} == {None}


def test_fault_057_other_settings_are_refused_with_the_differences(store):
    with pytest.raises(
        AtlasError, match=r"tiny\.atlas was made with other settings:\n  k: 2 there, 3 asked\n"
    ):
        Store.prepare(store.root, manifest(k=3))


def test_fault_068_the_second_writer_with_other_settings_is_refused(tmp_path):
    first = Store.prepare(tmp_path / "a", manifest())
    with pytest.raises(AtlasError, match="other settings"):
        Store.prepare(tmp_path / "a", manifest(shard_size=5))
    assert Store.prepare(tmp_path / "a", manifest()).manifest == first.manifest


def test_a_folder_with_other_things_is_not_made_an_atlas(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(AtlasError, match=r"is not empty and not an atlas \(it holds 'thesis\.tex'\)"):
        Store.prepare(tmp_path, manifest())


def test_fault_071_a_missing_manifest_is_not_guessed(store):
    (store.root / "atlas.json").unlink()
    with pytest.raises(AtlasError, match="the manifest is missing, and vitscope does not guess"):
        Store.prepare(store.root, manifest())
    with pytest.raises(AtlasError, match=r"is not an atlas: cannot read .*atlas\.json: No such file"):
        Store.open(store.root)


def test_leaves_are_immutable(store):
    files = leaf_files(store.layout("logits"), 0)
    store.commit_leaf("logits", 0, files)
    with pytest.raises(
        AtlasError, match=r"logits units 0 to 4 \(leaf 0000\) is there already, with other contents"
    ):
        store.commit_leaf("logits", 0, {**files, "pack": b"other"})


def test_an_unknown_site_names_the_nearest(store):
    with pytest.raises(UnknownSite, match=r"no site 'logit' in tiny\.atlas \(2 sites\)\. Nearest: 'logits'"):
        store.layout("logit")


@pytest.mark.parametrize("part", ["units.parquet", "exemplars.parquet", "pack", "sprite.webp", "ok"])
@pytest.mark.parametrize("harm", ["delete", "truncate", "flip"])
def test_fault_065_a_harmed_leaf_is_found_and_can_be_written_again(store, part, harm):
    path = store.leaf_file("blocks.1.ffn", 0, part)
    before = path.read_bytes()
    if harm == "delete":
        path.unlink()
    else:
        path.write_bytes(before[: len(before) // 2] if harm == "truncate" else b"\xff" + before[1:])
    fault = store.fault("blocks.1.ffn", 0, read=True)
    assert fault == ABSENT if (part, harm) == ("ok", "delete") else f"0000.{part}" in fault
    assert store.fault("blocks.1.ffn", 1, read=True) is None
    store.commit_leaf("blocks.1.ffn", 0, leaf_files(store.layout("blocks.1.ffn"), 0))
    assert store.fault("blocks.1.ffn", 0, read=True) is None
    assert path.read_bytes() == before


def test_fault_072_a_leaf_exists_only_with_its_marker(store, tmp_path):
    seen = []
    fresh = Store.prepare(tmp_path / "fresh", manifest())
    real = commit.write

    def watching(path, content, **how):
        seen.append(fresh.fault("logits", 0))
        real(path, content, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitscope.atlas.store.write", watching)
        fresh.commit_leaf("logits", 0, leaf_files(fresh.layout("logits"), 0))
    assert seen == [ABSENT] * 5
    assert fresh.fault("logits", 0) is None


def test_fault_066_a_full_disk_keeps_what_was_finished(tmp_path, monkeypatch):
    store = Store.prepare(tmp_path / "a", manifest())
    store.commit_leaf("logits", 0, leaf_files(store.layout("logits"), 0))
    calls = iter(range(100))
    real = os.fsync

    def full_later(handle):
        if next(calls) > 3:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full_later)
    with pytest.raises(AtlasError, match="the disk is full"):
        store.commit_leaf("blocks.1.ffn", 0, leaf_files(store.layout("blocks.1.ffn"), 0))
    assert store.fault("blocks.1.ffn", 0) == ABSENT
    assert store.fault("logits", 0, read=True) is None


def test_fault_073_a_moved_atlas_works(store, tmp_path):
    shutil.move(store.root, tmp_path / "elsewhere")
    moved = Store.open(tmp_path / "elsewhere")
    assert {moved.fault(site.name, leaf, read=True) for site, leaf in moved.leaves()} == {None}


def test_arrays_round_trip_and_are_equal_bytes(tmp_path):
    arrays = {
        "b/x": np.arange(6.0).reshape(2, 3).T,
        "a": np.array([1, 2], np.uint8),
        "none": np.zeros((0, 3)),
    }
    for name in ("one", "two"):
        write_arrays(tmp_path / name, arrays, facts={"images": ["é", "x"], "n": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    found, facts = read_arrays(tmp_path / "one")
    assert facts == {"images": ["é", "x"], "n": 1}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_fault_064_damaged_arrays_count_as_missing(tmp_path):
    path = tmp_path / "part"
    write_arrays(path, {"a": np.arange(100.0)}, facts={"n": 1})
    content = path.read_bytes()
    assert read_arrays(tmp_path / "absent") is None
    for damage in (b"", content[:50], content[:-1], content[:-1] + b"\xff", b"\xff" * 8 + content[8:]):
        path.write_bytes(damage)
        assert read_arrays(path) is None


@pytest.mark.parametrize(
    "image", ["", "../../../etc/passwd", "A" * 32, "a" * 31, "a" * 33, "a" * 31 + "\n", "%2e"]
)
def test_fault_075_an_image_id_is_never_a_path(store, image):
    with pytest.raises(BadValue, match="not an image id"):
        store.thumbnail_file(image)


def test_a_strange_shard_id_stays_inside(store):
    for shard in ("../../x", "/etc/x", "a/b", "", "é" * 300):
        assert store.part_file(shard).parent == store.root / "parts"
        assert len(store.part_file(shard).name) < 60
