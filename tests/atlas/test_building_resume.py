"""Building an atlas again: after any interruption, harm or move, to the same bytes, or refused."""

import json
import os
import shutil
import threading
import time

import pytest
from tests.atlas.conftest import QUICK, SETTINGS, SITE, model, opened, record, rewrite, tree

from vitscope.atlas import commit, work
from vitscope.atlas.building import build
from vitscope.atlas.read import Atlas
from vitscope.atlas.store import Store
from vitscope.atlas.verify import verify
from vitscope.errors import AtlasError
from vitscope.models.vision_model import VisionModel
from vitscope.testing import tiny_vit


def test_running_it_again_changes_nothing(again):
    before = tree(again / "tiny.atlas")
    built = build(model(), opened(again / "photos"), out=again / "tiny.atlas", **SETTINGS)
    assert tree(again / "tiny.atlas") == before
    assert (built.images, built.skipped, built.units, built.dreams) == (11, 0, 96, 3)
    assert json.loads(json.dumps(built.describe())).keys() == {
        "atlas", "images", "skipped", "units", "dreams", "seconds",
    }  # fmt: skip
    assert record(again / "tiny.atlas")["outcome"] == "finished"


def test_fault_063_interrupted_at_any_write_it_resumes_to_the_same_bytes(finished, tmp_path, monkeypatch):
    expected = tree(finished / "tiny.atlas")
    source, real = opened(finished / "photos"), commit._write_synced
    for stop in range(1, 24, 4):
        count = iter(range(10_000))

        def failing(path, content, count=count, stop=stop):
            if path.parent.name != "runs" and next(count) == stop:
                path.write_bytes(content[: len(content) // 2])
                raise KeyboardInterrupt
            real(path, content)

        monkeypatch.setattr(commit, "_write_synced", failing)
        with pytest.raises(KeyboardInterrupt):
            build(model(), source, out=tmp_path / str(stop), **SETTINGS)
        assert record(tmp_path / str(stop))["outcome"] == "interrupted" if stop > 1 else True
        monkeypatch.setattr(commit, "_write_synced", real)
        build(model(), source, out=tmp_path / str(stop), **SETTINGS)
        assert tree(tmp_path / str(stop)) == expected, f"interrupted at write {stop}"


def test_a_finished_build_measures_nothing_and_a_resumed_one_no_forms(again, monkeypatch):
    """How passes are computed was agreed when the first dream was made."""
    monkeypatch.setattr(work, "tuned_for", lambda *_: pytest.fail("forms were measured again"))
    told = []
    build(model(), opened(again / "photos"), out=again / "tiny.atlas", on_plan=told.append, **SETTINGS)
    assert told == []
    Store.open(again / "tiny.atlas").leaf_file(SITE, 0, "ok").unlink()
    build(model(), opened(again / "photos"), out=again / "tiny.atlas", on_plan=told.append, **SETTINGS)
    assert len(told) == 1


def test_fault_057_other_settings_are_refused(again):
    for change, line in (
        ({"k": 4}, "k: 3 there, 4 asked"),
        ({"seed": 1}, "dreams.seed: 0 there, 1 asked"),
        ({"seeds": 2}, "dreams.seeds: 1 there, 2 asked"),
        ({"recipe": QUICK.replace(steps=3)}, "dreams.recipe.steps: 2 there, 3 asked"),
        ({"sites": "blocks.*.ffn"}, "sites.blocks.0.ffn.units: absent there, 96 asked"),
    ):
        with pytest.raises(AtlasError, match=line):
            build(model(), opened(again / "photos"), out=again / "tiny.atlas", **{**SETTINGS, **change})
    with pytest.raises(AtlasError, match=r"provenance\.weights"):
        build(tiny_vit(seed=1), opened(again / "photos"), out=again / "tiny.atlas", **SETTINGS)


@pytest.mark.parametrize(
    ("part", "harm"),
    [
        ("units.parquet", "delete"),
        ("exemplars.parquet", "truncate"),
        ("pack", "flip"),
        ("sprite.webp", "delete"),
        ("ok", "truncate"),
    ],
)
def test_fault_065_a_harmed_leaf_is_built_again(again, part, harm):
    expected = tree(again / "tiny.atlas")
    path = Store.open(again / "tiny.atlas").leaf_file(SITE, 0, part)
    content = path.read_bytes()
    if harm == "delete":
        path.unlink()
    else:
        path.write_bytes(content[:-9] if harm == "truncate" else content[:-1] + bytes([content[-1] ^ 1]))
    assert not verify(again / "tiny.atlas").ok
    build(model(), opened(again / "photos"), out=again / "tiny.atlas", **SETTINGS)
    assert tree(again / "tiny.atlas") == expected


def test_fault_063_dreams_left_behind_by_a_kill_after_their_leaf_are_dropped(again):
    expected = tree(again / "tiny.atlas")
    left = Store.open(again / "tiny.atlas").dream_file(SITE, 3)
    left.parent.mkdir(parents=True)
    left.write_bytes(b"a dream that its leaf holds already")
    build(model(), opened(again / "photos"), out=again / "tiny.atlas", **SETTINGS)
    assert tree(again / "tiny.atlas") == expected


def test_a_damaged_part_and_a_lost_thumbnail_are_made_again(again):
    expected = tree(again / "tiny.atlas")
    part = min((again / "tiny.atlas/parts").glob("*.safetensors"))
    part.write_bytes(part.read_bytes()[:-1])
    min((again / "tiny.atlas/images").rglob("*.webp")).unlink()
    build(model(), opened(again / "photos"), out=again / "tiny.atlas", **SETTINGS)
    assert tree(again / "tiny.atlas") == expected


def test_fault_066_a_full_disk_keeps_what_is_there_and_can_be_resumed(finished, tmp_path, monkeypatch):
    count, real = iter(range(1000)), commit._write_synced

    def full(path, content):
        if next(count) > 8:
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(commit, "_write_synced", full)
    with pytest.raises(
        AtlasError, match=r"the disk is full: .* MB free at .*run the same command again"
    ) as caught:
        build(model(), opened(finished / "photos"), out=tmp_path / "tiny.atlas", **SETTINGS)
    assert caught.value.exit_code == 1
    monkeypatch.setattr(commit, "_write_synced", real)
    assert not Atlas.open(tmp_path / "tiny.atlas").complete
    build(model(), opened(finished / "photos"), out=tmp_path / "tiny.atlas", **SETTINGS)
    assert tree(tmp_path / "tiny.atlas") == tree(finished / "tiny.atlas")


def test_fault_067_two_writers_do_every_unit_once(finished, tmp_path):
    failures = []

    def work(mine: VisionModel) -> None:
        try:
            build(mine, opened(finished / "photos"), out=tmp_path / "tiny.atlas", **SETTINGS)
        except BaseException as error:
            failures.append(error)

    other = tiny_vit()
    other.module.load_state_dict(model().module.state_dict())
    writers = [threading.Thread(target=work, args=(mine,)) for mine in (model(), other)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    assert tree(tmp_path / "tiny.atlas") == tree(finished / "tiny.atlas")


def test_fault_069_a_lease_of_a_dead_host_is_taken_over(finished, tmp_path):
    shutil.copytree(finished / "tiny.atlas", tmp_path / "tiny.atlas")
    part = min((tmp_path / "tiny.atlas/parts").glob("*.safetensors"))
    lease = tmp_path / "tiny.atlas/leases" / f"{part.stem}.lease"
    lease.parent.mkdir()
    lease.write_text(json.dumps({"host": "gone", "pid": 1}))
    long_ago = time.time() - 2 * commit.STALE
    os.utime(lease, (long_ago, long_ago))
    part.unlink()
    build(model(), opened(finished / "photos"), out=tmp_path / "tiny.atlas", **SETTINGS)
    assert tree(tmp_path / "tiny.atlas") == tree(finished / "tiny.atlas")


def test_fault_070_a_newer_atlas_is_refused(again):
    rewrite(again / "tiny.atlas/atlas.json", schema=2)
    with pytest.raises(AtlasError, match="schema version 2, this vitscope reads version 1"):
        build(model(), opened(again / "photos"), out=again / "tiny.atlas", **SETTINGS)


def test_fault_073_a_moved_atlas_over_moved_images_can_be_resumed(again):
    (again / "tiny.atlas").rename(again / "moved.atlas")
    (again / "photos").rename(again / "pictures")
    Store.open(again / "moved.atlas").leaf_file(SITE, 0, "ok").unlink()
    build(model(), opened(again / "pictures"), out=again / "moved.atlas", **SETTINGS)
    assert Atlas.open(again / "moved.atlas").complete
