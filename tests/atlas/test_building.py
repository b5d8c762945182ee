"""Building a small atlas over invented pictures: right by brute force, honest about what went wrong."""

import io
import json
import shutil
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from einops import rearrange
from PIL import Image
from tests.atlas.conftest import CONSTANT, DEAD, QUICK, SETTINGS, SITE, model, opened, record, tree

from vitscope import atlas as shelf
from vitscope.atlas.building import build
from vitscope.atlas.manifest import LEAF_UNITS
from vitscope.atlas.read import Atlas
from vitscope.atlas.rows import chosen
from vitscope.atlas.store import Store, write_arrays
from vitscope.atlas.thumbnails import SHORT_SIDE
from vitscope.atlas.verify import verify
from vitscope.data.decode import decode, view
from vitscope.data.source import image_id
from vitscope.data.stream import stream
from vitscope.dream import dream
from vitscope.errors import AtlasError, BadValue, NotWritable, SourceError, UnknownName, UnknownSite
from vitscope.models.vision_model import VisionModel
from vitscope.provenance import explain
from vitscope.tap import read


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
    assert (stored.recipe, stored.seed) == ("quick", 0)
    assert stored.score == pytest.approx(expected.score, rel=1e-4)
    assert stored.trust["robust"] == pytest.approx(expected.trust["robust"], rel=1e-4)
    wanted = rearrange(expected.pixels, "rgb row column -> row column rgb").mul(255).byte().numpy()
    grey, wanted_grey = (
        np.asarray(picture.convert("L")).astype(float)
        for picture in (Image.open(io.BytesIO(stored.image)), Image.fromarray(wanted))
    )
    assert np.corrcoef(grey.ravel(), wanted_grey.ravel())[0, 1] > 0.95, "WebP halves the colours only"


def test_a_dream_that_natural_images_beat_is_weak(finished):
    """Compared with the unit's exemplars by the mean, which the atlas holds."""
    atlas = Atlas.open(finished / "tiny.atlas")
    leaf = atlas.leaf(SITE, 0)
    rows = leaf.exemplars.to_pylist()
    for row in leaf.units:
        if row.has_dream:
            (stored,) = atlas[f"{SITE}:{row.unit}"].dreams
            mine = [each for each in rows if (each["unit"], each["ranking"]) == (row.unit, "mean")]
            best = max(each["value"] for each in mine)
            assert stored.trust["natural_best"] == pytest.approx(best, rel=1e-6)
            ratio = pytest.approx(stored.score / best, rel=1e-6) if best > 0 else None
            assert stored.trust["natural_ratio"] == ratio
            beaten = stored.score <= best
            assert (stored.trust["natural_percentile"] == 100) == (not beaten)
            shaken = stored.trust["robust"] <= stored.trust["natural_robust"]
            assert stored.status == ("weak" if beaten or shaken else "ok")


def test_an_atlas_gives_weak_dreams_a_second_start(finished, tmp_path):
    recipe = QUICK.replace(second_start=True)
    build(model(), opened(finished / "photos"), out=tmp_path / "a", **{**SETTINGS, "recipe": recipe})
    before, after = Atlas.open(finished / "tiny.atlas"), Atlas.open(tmp_path / "a")
    units = [row.unit for row in before.leaf(SITE, 0).units if row.has_dream]
    pairs = [(before[f"{SITE}:{unit}"].dreams[0], after[f"{SITE}:{unit}"].dreams[0]) for unit in units]
    weak = [first.status in ("weak", "dead") for first, _ in pairs]
    assert ["second_start" in second.trust for _, second in pairs] == weak
    assert any(weak)
    for first, second in pairs:
        changed = second.trust.get("second_start", False)
        assert (second.image != first.image) == changed
        assert (second.trust["robust"] > first.trust["robust"]) == changed


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


def test_fault_061_read_only_output_is_found_before_anything_heavy(finished, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(
        VisionModel, "fingerprint", property(lambda _: pytest.fail("the weights were hashed"))
    )
    with pytest.raises(NotWritable, match="Choose another output folder"):
        build(model(), opened(finished / "photos"), out=tmp_path / "file" / "tiny.atlas")


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
    assert list(told) == ["scanning", "sampling", "thumbnails", "leaves", "dreams"]
    for steps in told.values():
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]
    assert told["scanning"] == [(0, 11), (4, 11), (8, 11), (11, 11)]


def test_all_dreams_of_a_site_with_several_leaves(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("vitscope.atlas.manifest.LEAF_UNITS", 16)
    monkeypatch.setattr("vitscope.atlas.unit.LEAF_UNITS", 16)
    one = QUICK.replace(steps=1)
    settings = {**SETTINGS, "sites": "logits", "dreams": "all", "recipe": one, "batch_size": 10}
    built = build(model(), opened(finished / "photos"), out=tmp_path / "a", **settings)
    assert built.dreams == built.units == 10
    assert all(row.has_dream for row in Atlas.open(tmp_path / "a").leaf("logits", 0).units)
    assert not (tmp_path / "a/parts/dreams").exists()
    assert LEAF_UNITS == 256


def test_dreams_by_several_recipes_and_seeds_stand_side_by_side(finished, tmp_path):
    """Each as if it were dreamt alone; one that is lost on the way is dreamt again to the same bytes."""
    one, two = (QUICK.replace(name=name, steps=steps) for name, steps in (("one", 1), ("two", 2)))
    asked = {**SETTINGS, "sites": "logits", "dreams": 1, "recipe": [one, two], "repeats": 2, "seed": 3}
    source, told = opened(finished / "photos"), []
    assert build(model(), source, out=tmp_path / "a", on_plan=told.append, **asked).dreams == 4
    assert [sentence.partition(" dreams, ")[0] for sentence in told] == ["one: 2", "two: 2"]
    atlas, store = Atlas.open(tmp_path / "a"), Store.open(tmp_path / "a")
    (unit,) = (row.unit for row in atlas.leaf("logits", 0).units if row.has_dream)
    found = atlas[f"logits:{unit}"].dreams
    assert [(dream.recipe, dream.seed) for dream in found] == [("one", 3), ("one", 4), ("two", 3), ("two", 4)]
    expected = dream(model(), f"logits:{unit}", recipe=two, seed=4)
    assert found[3].score == pytest.approx(expected.score, rel=1e-4)
    assert found[3].trust["robust"] == pytest.approx(expected.trust["robust"], rel=1e-4)
    overview = Image.open(io.BytesIO(atlas.sprite("logits", 0)))
    tile = np.asarray(overview.crop((64 * unit, 0, 64 * unit + 64, 64)), float)
    shown = [Image.open(io.BytesIO(one.image)).convert("RGB").resize((64, 64)) for one in found]
    assert np.argmin([np.abs(np.asarray(one, float) - tile).mean() for one in shown]) == 0

    before, way = tree(tmp_path / "a"), store.dream_file("logits", unit, 2)
    store.leaf_file("logits", 0, "ok").unlink()
    write_arrays(
        way, {"webp": np.frombuffer(found[2].image, np.uint8)}, facts={"dream": _row(atlas, unit, 2)}
    )
    assert build(model(), source, out=tmp_path / "a", **asked).dreams == 4
    assert tree(tmp_path / "a") == before
    assert not way.exists()
    with pytest.raises(AtlasError, match=r"dreams\.beside\.two\.steps: 2 there, absent asked"):
        build(model(), source, out=tmp_path / "a", **{**asked, "recipe": one})


def _row(atlas: Atlas, unit: int, way: int) -> str:
    """The facts of a dream as they wait for their leaf."""
    row = asdict(atlas.leaf("logits", 0).row(unit).dreams[way])
    return json.dumps({name: row[name] for name in row if name not in ("offset", "size", "sha256")})


def test_numbers_outside_their_range(finished, tmp_path):
    for change, message in (
        ({"dreams": -1}, "dreams is a number of units a site, or 'all', not -1"),
        ({"k": 0}, "at least 1, not 0"),
        ({"batch_size": 0}, "batch_size and shard_size must be at least 1"),
        ({"max_skip": 2.0}, "max_skip between 0 and 1"),
        ({"recipe": ()}, "dreams=3 needs a recipe"),
        ({"recipe": [QUICK, QUICK]}, "the recipe 'quick' is asked for twice; dreams of other seeds are"),
        ({"repeats": 0}, "seeds and repeats must be at least 1, not 1 and 0"),
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
