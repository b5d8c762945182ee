"""Building a small atlas over invented pictures: right by brute force, resumable, honest about what went
wrong."""

import io
import json
import os
import shutil
import threading
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from tests.atlas.conftest import rewrite

from vitscope import atlas as shelf
from vitscope.atlas import commit
from vitscope.atlas.build import build
from vitscope.atlas.manifest import LEAF_UNITS
from vitscope.atlas.read import Atlas
from vitscope.atlas.rows import chosen
from vitscope.atlas.store import Store
from vitscope.atlas.thumbnails import SHORT_SIDE
from vitscope.atlas.verify import verify
from vitscope.data import images
from vitscope.data.decode import decode, stream, view
from vitscope.data.source import ImageSource, image_id
from vitscope.dream import dream
from vitscope.dream.recipes import GHIASI_2022
from vitscope.errors import AtlasError, BadValue, NotWritable, SourceError, UnknownName, UnknownSite
from vitscope.models.vision_model import VisionModel
from vitscope.provenance import explain
from vitscope.tap import read
from vitscope.testing import tiny_vit

QUICK = GHIASI_2022.replace(name="quick", steps=2, copies=2)
SITE = "blocks.1.ffn"
DEAD, CONSTANT = 5, 6
SETTINGS = {"sites": SITE, "k": 3, "shard_size": 4, "dreams": 3, "recipe": QUICK, "batch_size": 2}


@cache
def model() -> VisionModel:
    """A tiny ViT in which one unit is dead and one constant."""
    made = tiny_vit()
    linear = made.module.blocks[1].mlp.fc1
    linear.weight.data[[DEAD, CONSTANT]] = 0
    linear.bias.data[[DEAD, CONSTANT]] = torch.tensor([0.0, 1.0])
    return made


def paint(folder: Path, count: int = 11) -> Path:
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 40), Image.Resampling.BICUBIC).save(path)
    return folder


def opened(folder: Path) -> ImageSource:
    return images(f"folder:{folder}")


def tree(root: Path) -> dict[str, bytes]:
    """Every file but the run records."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.parent.name != "runs"]
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(paths)}


def record(root: Path) -> dict:
    """The newest run record."""
    return json.loads(max((root / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns).read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with `photos` and a complete `tiny.atlas` over them; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    paint(folder / "photos")
    build(model(), opened(folder / "photos"), out=folder / "tiny.atlas", **SETTINGS)
    return folder


@pytest.fixture
def again(finished, tmp_path) -> Path:
    """A copy of `finished`, to be changed."""
    shutil.copytree(finished, tmp_path / "again")
    return tmp_path / "again"


@cache
def activations(folder: Path) -> dict[str, np.ndarray]:
    """Identity of each picture -> its float64 activations "place unit" on the grid, by reading one at a
    time."""
    source, found = opened(folder), {}
    for shard in source.shards():
        for batch in stream(source, shard, model().preprocessing, batch_size=1, on_skip=pytest.fail):
            values = read(model(), batch.pixels, [model().sites.named(SITE)])[SITE][0, 1:]
            found[batch.ids[0]] = values.numpy()
    return found


def test_it_is_whole(finished):
    found = Atlas.open(finished / "tiny.atlas")
    assert found.complete
    assert verify(found.path).ok
    assert [(site.name, site.units, site.grid, site.prefix_tokens) for site in found.sites] == [
        (SITE, 96, (4, 4), 1)
    ]
    assert explain(found.path).weights == model().fingerprint
    assert not list(found.path.rglob("*.tmp"))
    assert not (found.path / "leases").exists()


@pytest.mark.parametrize("ranking", ["maximum", "mean"])
def test_exemplars_equal_a_full_sort(finished, ranking):
    seen = activations(finished / "photos")
    atlas = Atlas.open(finished / "tiny.atlas")
    for unit in set(range(96)) - {DEAD, CONSTANT}:
        score = {
            image: getattr(values[:, unit], ranking[:4].replace("maxi", "max"))()
            for image, values in seen.items()
        }
        best = sorted(score, key=lambda image: (-score[image], image))[:3]
        entry = atlas[f"{SITE}:{unit}"]
        exemplars = entry.exemplars if ranking == "maximum" else entry.by_mean
        assert [exemplar.image for exemplar in exemplars] == best
        np.testing.assert_allclose([e.value for e in exemplars], [score[image] for image in best], rtol=1e-5)
        for exemplar in exemplars:
            values = seen[exemplar.image][:, unit]
            assert exemplar.place == "{},{}".format(*divmod(int(values.argmax()), 4))
            shown = exemplar.map_low + exemplar.map / 255 * (exemplar.map_high - exemplar.map_low)
            step = (values.max() - values.min()) / 255
            np.testing.assert_allclose(shown.ravel(), values, atol=0.51 * step + 1e-6)


def test_statistics_equal_those_of_all_values(finished):
    values = np.concatenate(list(activations(finished / "photos").values())).astype(np.float64)
    atlas = Atlas.open(finished / "tiny.atlas")
    for row in atlas.leaf(SITE, 0).units:
        column = values[:, row.unit]
        assert row.count == len(column) == 11 * 16
        expected = [column.mean(), column.var(), column.min(), column.max(), (column == 0).mean()]
        found = [row.mean, row.variance, row.minimum, row.maximum, row.zeros]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        assert sum(row.histogram) == 11
    assert len(atlas[f"{SITE}:0"].histogram.counts) == len(atlas[f"{SITE}:0"].histogram.edges) + 1


def test_fault_101_and_102_dead_and_constant_units_have_no_exemplars(finished):
    atlas = Atlas.open(finished / "tiny.atlas")
    for unit, status in ((DEAD, "dead"), (CONSTANT, "constant")):
        found = atlas[f"{SITE}:{unit}"]
        assert (found.status, found.exemplars, found.by_mean, found.dreams) == (status, (), (), ())
    assert atlas[f"{SITE}:0"].status == "ok"


def test_exemplars_say_path_and_label(finished):
    exemplar = Atlas.open(finished / "tiny.atlas")[f"{SITE}:0"].exemplars[0]
    content = (finished / "photos" / exemplar.path).read_bytes()
    assert exemplar.image == image_id(content)
    assert exemplar.label == exemplar.path[0]


def test_a_thumbnail_shows_what_the_model_saw(finished):
    atlas = Atlas.open(finished / "tiny.atlas")
    exemplar = atlas[f"{SITE}:0"].exemplars[0]
    thumbnail = Image.open(io.BytesIO(atlas.thumbnail(exemplar.image)))
    assert min(thumbnail.size) == SHORT_SIDE
    seen = view(decode((finished / "photos" / exemplar.path).read_bytes()).image, model().preprocessing)
    small = np.asarray(thumbnail.convert("RGB").resize((32, 32), Image.Resampling.BOX)).astype(float)
    assert np.abs(small - seen).mean() < 6
    assert np.abs(small[:, ::-1] - seen).mean() > 12


def test_dreams_are_those_of_the_recipe(finished):
    atlas = Atlas.open(finished / "tiny.atlas")
    units = [row.unit for row in atlas.leaf(SITE, 0).units if row.has_dream]
    assert len(units) == 3
    expected = dream(model(), f"{SITE}:{units[1]}", recipe=QUICK)
    stored = atlas[f"{SITE}:{units[1]}"].dreams[0]
    assert (stored.recipe, stored.seed, stored.status) == ("quick", 0, "ok")
    assert stored.score == pytest.approx(expected.score, rel=1e-4)
    assert stored.trust["robust"] == pytest.approx(expected.trust["robust"], rel=1e-4)
    wanted = rearrange(expected.pixels, "rgb row column -> row column rgb").mul(255).byte().numpy()
    grey, wanted_grey = (
        np.asarray(picture.convert("L")).astype(float)
        for picture in (Image.open(io.BytesIO(stored.image)), Image.fromarray(wanted))
    )
    assert np.corrcoef(grey.ravel(), wanted_grey.ravel())[0, 1] > 0.95, "WebP halves the colours only"


def test_the_choice_is_spread_over_live_units_and_depends_on_the_seed():
    statuses = ["ok"] * 100
    statuses[:50:2] = ["dead"] * 25
    picked = chosen(SITE, statuses, count=5, seed=0)
    assert picked == sorted(set(picked))
    assert all(statuses[unit] == "ok" for unit in picked)
    assert [sum(unit < bound for unit in picked) for bound in (31, 56, 71, 86, 101)] == [1, 2, 3, 4, 5]
    assert picked != chosen(SITE, statuses, count=5, seed=1)
    assert chosen(SITE, statuses, count="all", seed=0) == chosen(SITE, statuses, count=500, seed=0)
    assert len(chosen(SITE, statuses, count="all", seed=0)) == 75
    assert chosen(SITE, statuses, count=0, seed=0) == []


def test_running_it_again_changes_nothing(again):
    before = tree(again / "tiny.atlas")
    built = build(model(), opened(again / "photos"), out=again / "tiny.atlas", **SETTINGS)
    assert tree(again / "tiny.atlas") == before
    assert (built.images, built.skipped, built.units, built.dreams) == (11, 0, 96, 3)
    assert json.loads(json.dumps(built.describe())).keys() == {
        "atlas", "images", "skipped", "units", "dreams", "seconds",
    }  # fmt: skip
    assert record(again / "tiny.atlas")["outcome"] == "finished"


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_batch_size_changes_no_byte_of_a_leaf(finished, tmp_path, batch_size):
    build(
        model(),
        opened(finished / "photos"),
        out=tmp_path / "a",
        **{**SETTINGS, "batch_size": batch_size, "dreams": 0},
    )
    build(model(), opened(finished / "photos"), out=tmp_path / "b", **{**SETTINGS, "dreams": 0})
    one, other = (
        {name: content for name, content in tree(tmp_path / name_).items() if "sites/" in name}
        for name_ in "ab"
    )
    assert one == other


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


def test_fault_057_other_settings_are_refused(again):
    for change, line in (
        ({"k": 4}, "k: 3 there, 4 asked"),
        ({"seed": 1}, "dreams.seed: 0 there, 1 asked"),
        ({"recipe": QUICK.replace(steps=3)}, "dreams.recipe.steps: 2 there, 3 asked"),
        ({"sites": "blocks.*.ffn"}, "sites.blocks.0.ffn.units: absent there, 96 asked"),
    ):
        with pytest.raises(AtlasError, match=line):
            build(model(), opened(again / "photos"), out=again / "tiny.atlas", **{**SETTINGS, **change})
    with pytest.raises(AtlasError, match=r"provenance\.weights"):
        build(tiny_vit(seed=1), opened(again / "photos"), out=again / "tiny.atlas", **SETTINGS)


def test_fault_061_read_only_output_is_found_before_anything_heavy(finished, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(
        VisionModel, "fingerprint", property(lambda _: pytest.fail("the weights were hashed"))
    )
    with pytest.raises(NotWritable, match="Choose another output folder"):
        build(model(), opened(finished / "photos"), out=tmp_path / "file" / "tiny.atlas")


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


def test_fault_029_the_same_picture_twice_fills_one_rank(finished, tmp_path):
    shutil.copytree(finished / "photos", tmp_path / "photos")
    for path in list((tmp_path / "photos").rglob("*.png")):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    build(model(), opened(tmp_path / "photos"), out=tmp_path / "a", **{**SETTINGS, "dreams": 0})
    twice, once = Atlas.open(tmp_path / "a"), Atlas.open(finished / "tiny.atlas")
    for unit in range(0, 96, 7):
        found = [exemplar.image for exemplar in twice[f"{SITE}:{unit}"].exemplars]
        assert found == [exemplar.image for exemplar in once[f"{SITE}:{unit}"].exemplars]


def test_fault_030_and_031_a_file_that_changes_or_goes_before_its_thumbnail_is_reported(finished, tmp_path):
    shutil.copytree(finished / "photos", tmp_path / "photos")
    paths = sorted((tmp_path / "photos").rglob("*.png"))
    changed, gone = paths[0], paths[1]
    ids = {path: image_id(path.read_bytes()) for path in (changed, gone)}

    def meddle(stage: str, done: int, total: int) -> None:
        if stage == "scanning" and done == total and gone.exists():
            shutil.copy(paths[2], changed)
            gone.unlink()

    settings = {**SETTINGS, "dreams": 0, "k": 11}
    build(model(), opened(tmp_path / "photos"), out=tmp_path / "a", on_progress=meddle, **settings)
    reasons = {entry["path"]: entry["reason"] for entry in record(tmp_path / "a")["without_thumbnail"]}
    assert reasons == {f"a/{changed.name}": "changed", f"a/{gone.name}": "missing"}
    report = verify(tmp_path / "a")
    assert report.ok
    assert sorted(report.skipped) == sorted(
        f"the thumbnail of {ids[path]}: a/{path.name}: {reason}"
        for path, reason in ((changed, "changed"), (gone, "missing"))
    )


def test_fault_032_nothing_but_bad_images_makes_no_atlas_that_looks_complete(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(b"<html>")
    with pytest.raises(SourceError, match="has no image that could be read: 3 skipped"):
        build(model(), opened(tmp_path / "photos"), out=tmp_path / "a", **SETTINGS)
    assert not Atlas.open(tmp_path / "a").complete
    assert [entry["reason"] for entry in record(tmp_path / "a")["skipped"]] == ["unreadable"] * 3


def test_fault_033_too_many_skipped_images_end_the_build_unless_allowed(finished, tmp_path):
    shutil.copytree(finished / "photos", tmp_path / "photos")
    (tmp_path / "photos/a/bad.png").write_bytes(b"")
    source = opened(tmp_path / "photos")
    with pytest.raises(SourceError, match=r"1 of 12 images were skipped, more than 5%"):
        build(model(), source, out=tmp_path / "a", **SETTINGS)
    built = build(model(), source, out=tmp_path / "a", max_skip=0.1, **SETTINGS)
    assert (built.images, built.skipped) == (11, 1)
    assert record(tmp_path / "a")["skipped"][0]["path"] == "a/bad.png"


def test_progress_counts_every_stage_to_its_end(finished, tmp_path):
    told: dict[str, list[tuple[int, int]]] = {}
    build(
        model(),
        opened(finished / "photos"),
        out=tmp_path / "a",
        on_progress=lambda stage, done, total: told.setdefault(stage, []).append((done, total)),
        **SETTINGS,
    )
    assert list(told) == ["scanning", "thumbnails", "leaves", "dreams"]
    for steps in told.values():
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]
    assert told["scanning"] == [(0, 11), (4, 11), (8, 11), (11, 11)]


def test_all_dreams_of_a_site_with_several_leaves(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("vitscope.atlas.manifest.LEAF_UNITS", 16)
    monkeypatch.setattr("vitscope.atlas.unit.LEAF_UNITS", 16)
    settings = {**SETTINGS, "sites": "logits", "dreams": "all", "recipe": QUICK.replace(steps=1)}
    built = build(model(), opened(finished / "photos"), out=tmp_path / "a", **settings)
    assert built.dreams == built.units == 10
    assert all(row.has_dream for row in Atlas.open(tmp_path / "a").leaf("logits", 0).units)
    assert not (tmp_path / "a/parts/dreams").exists()
    assert LEAF_UNITS == 256


def test_numbers_outside_their_range(finished, tmp_path):
    for change, message in (
        ({"dreams": -1}, "dreams is a number of units a site, or 'all', not -1"),
        ({"k": 0}, "at least 1, not 0"),
        ({"batch_size": 0}, "batch_size and shard_size must be at least 1"),
        ({"max_skip": 2.0}, "max_skip between 0 and 1"),
        ({"recipe": None}, "dreams=3 needs a recipe"),
    ):
        with pytest.raises(BadValue, match=message):
            build(model(), opened(finished / "photos"), out=tmp_path / "a", **{**SETTINGS, **change})
    with pytest.raises(UnknownSite, match=r"Nearest: 'blocks\.1\.ffn'"):
        build(
            model(), opened(finished / "photos"), out=tmp_path / "a", **{**SETTINGS, "sites": "block.1.ffn"}
        )
    assert not (tmp_path / "a").exists()


def test_the_front_door_takes_a_recipe_by_name(finished, tmp_path):
    source = opened(finished / "photos")
    with pytest.raises(UnknownName, match=r"no recipe 'ghiasi'.*Nearest: 'ghiasi_2022'"):
        shelf.build(model(), source, out=tmp_path / "a", recipe="ghiasi", dreams=1)
    shelf.build(model(), source, out=tmp_path / "a", sites=SITE, k=3)
    assert (
        shelf.open(tmp_path / "a")[f"{SITE}:0"].exemplars
        == Atlas.open(finished / "tiny.atlas")[f"{SITE}:0"].exemplars
    )
