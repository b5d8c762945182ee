"""Variants: every one equals a scan of its own, pictures are decoded once, nothing of the model is left."""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import state_of

from vitscope.data import images
from vitscope.data.annotations import foregrounds
from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue, SourceError, UnknownSite
from vitscope.interventions.images import (
    drop_boxes,
    drop_patches,
    high_pass,
    keep_boxes,
    low_pass,
    shift,
    shuffle_patches,
)
from vitscope.interventions.units import remove_skip
from vitscope.meters.moments import Moments
from vitscope.meters.topk import TopK
from vitscope.parts import merge_parts
from vitscope.passes import scan_shard_variants
from vitscope.scan import scan
from vitscope.testing import tiny_vit
from vitscope.variants import Variant, scan_variants

METERS = [Moments("logits"), TopK("blocks.1.ffn", k=3)]
GRID = [
    Variant("plain"),
    Variant("low", images=(low_pass(radius=4),)),
    Variant("background", images=(drop_boxes(), shift(1, 2))),
    Variant("foreground", images=(keep_boxes(),)),
    Variant("high foreground", images=(keep_boxes(), high_pass(radius=2))),
    Variant("shuffled", images=(shuffle_patches(patch=8, seed=1), drop_patches(share=0.25, patch=8))),
]


@pytest.fixture(scope="module")
def model():
    return tiny_vit()


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """Eleven photos with a box each."""
    folder = tmp_path_factory.mktemp("variants")
    rows = ["path,x0,y0,x1,y1"]
    (folder / "photos").mkdir()
    for index in range(11):
        noise = np.random.default_rng(index).integers(0, 256, (36, 44, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "photos" / f"{index:02d}.png")
        rows.append(f"{index:02d}.png,{index},4,{index + 20},30")
    (folder / "boxes.csv").write_text("\n".join(rows))
    return images(folder / "photos", boxes=folder / "boxes.csv")


@contextmanager
def louder(model, *, factor=3.0):
    """A change of the model, undone at the end."""
    weight = model.module.head.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(factor)
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)


def same(one, other):
    assert one.images == other.images
    assert one.skipped == other.skipped
    for what in ("mean", "variance"):
        here, there = (getattr(found["moments"]["logits"], what) for found in (one, other))
        np.testing.assert_allclose(here, there, rtol=1e-6, atol=1e-7)
    here, there = (found["topk_maximum"]["blocks.1.ffn"] for found in (one, other))
    for unit in (0, 5, 95):
        assert [row.image for row in here.of(unit)] == [row.image for row in there.of(unit)]


def test_each_variant_equals_a_scan_of_its_own(model, annotated):
    found = scan_variants(model, annotated, GRID, METERS, batch_size=4)
    assert list(found) == [variant.name for variant in GRID]
    for variant in GRID:
        alone = scan(model, annotated.map(*variant.images), METERS, batch_size=4)
        same(found[variant.name], alone)
    means = {tuple(one["moments"]["logits"].mean) for one in found.values()}
    assert len(means) == len(GRID)


def test_pictures_are_decoded_once_and_the_model_runs_once_a_variant(model, annotated, monkeypatch):
    from vitscope.data import stream

    decoded, seen = [], []
    plain = stream.decode
    monkeypatch.setattr(stream, "decode", lambda *a, **k: decoded.append(1) or plain(*a, **k))
    preprocess = type(model).preprocess
    monkeypatch.setattr(
        type(model), "preprocess", lambda self, pixels: seen.append(len(pixels)) or preprocess(self, pixels)
    )
    scan_variants(model, annotated, GRID, METERS, batch_size=4)
    assert len(decoded) == 11
    assert seen == [size for size in (4, 4, 3) for _ in GRID]


def test_interventions_of_the_source_come_first(model, annotated):
    inner = annotated.map(keep_boxes(), low_pass(radius=6))
    found = scan_variants(model, inner, [Variant("more", images=(shift(3, 0),))], METERS)
    same(found["more"], scan(model, annotated.map(keep_boxes(), low_pass(radius=6), shift(3, 0)), METERS))
    with pytest.raises(
        BadValue, match=r"drop_boxes\(fill='black'\) works on the original picture and cannot"
    ):
        scan_variants(model, inner, [Variant("late", images=(drop_boxes(),))], METERS)


def test_a_variant_may_change_the_model_and_leaves_no_trace(model, annotated):
    model.module.train()
    before = state_of(model.module)
    grid = [Variant("plain"), Variant("loud", model=(louder,)), Variant("again")]
    found = scan_variants(model, annotated, grid, METERS, batch_size=3)
    assert state_of(model.module) == before
    model.module.eval()
    same(found["again"], found["plain"])
    with louder(model):
        same(found["loud"], scan(model, annotated, METERS))
    bias = model.module.head.bias.detach().numpy()
    plain, loud = (found[name]["moments"]["logits"].mean - bias for name in ("plain", "loud"))
    np.testing.assert_allclose(loud, 3 * plain, rtol=1e-4, atol=1e-5)


def test_a_failure_leaves_no_trace_either(model, annotated, monkeypatch):
    before = state_of(model.module)
    monkeypatch.setattr("vitscope.meters.moments._Sums.add", lambda *_: [][1])
    with pytest.raises(Exception, match="the meter 'moments' failed"):
        scan_variants(model, annotated, [Variant("loud", model=(louder,))], METERS)
    assert state_of(model.module) == before


def test_fault_053_all_variants_start_again_with_half_the_batch(model, annotated, monkeypatch):
    forward = model.module.blocks[1].forward
    whole = scan_variants(model, annotated, GRID, METERS, batch_size=2)

    def narrow(tokens, **kwargs):
        if len(tokens) > 2:
            raise MemoryError
        return forward(tokens, **kwargs)

    monkeypatch.setattr(model.module.blocks[1], "forward", narrow)
    found = scan_variants(model, annotated, GRID, METERS, batch_size=8)
    for name, one in found.items():
        same(one, whole[name])


def test_blocks_that_nothing_changes_run_once(model, annotated):
    ran = []
    hooks = [
        block.attn.register_forward_hook(lambda *_, index=index: ran.append(index))
        for index, block in enumerate(model.module.blocks)
    ]
    later = tuple(
        Variant(f"without {block}", model=(partial(remove_skip, block=block, which="mlp"),), unchanged=block)
        for block in range(3)
    )
    other = replace(later[2], name="other images", images=(low_pass(radius=4),))
    variants = [Variant("plain"), *later, other]
    meters = [Moments("blocks.*")]
    try:
        found = scan_variants(model, annotated, variants, meters, batch_size=16)
    finally:
        for hook in hooks:
            hook.remove()
    assert ran == [0, 1, 2, 0, 1, 2, 1, 2, 2, 0, 1, 2]
    for variant in variants:
        alone = scan_variants(model, annotated, [variant], meters, batch_size=16)[variant.name]
        for site, one in found[variant.name]["moments"].items():
            assert np.array_equal(one.mean, alone["moments"][site].mean), (variant.name, site)
            assert np.array_equal(one.variance, alone["moments"][site].variance), (variant.name, site)


def test_a_block_whose_inside_is_read_runs_for_all(model, annotated):
    variant = Variant("last", model=(partial(remove_skip, block=2),), unchanged=2)
    found = scan_variants(model, annotated, [Variant("plain"), variant], [Moments("blocks.*.ffn")])
    for site in ("blocks.0.ffn", "blocks.1.ffn"):
        assert np.array_equal(found["last"]["moments"][site].mean, found["plain"]["moments"][site].mean)


def test_shards_of_variants_merge(model, annotated):
    parts = [
        scan_shard_variants(model, annotated, shard, GRID, METERS, batch_size=3)
        for shard in annotated.shards(4)
    ]
    whole = scan_variants(model, annotated, GRID, METERS, batch_size=3)
    for place, variant in enumerate(GRID):
        merged = merge_parts(part[place] for part in parts)
        found = merged.states["moments"].result()["logits"].mean
        np.testing.assert_allclose(found, whole[variant.name]["moments"]["logits"].mean, rtol=1e-6, atol=1e-7)


def test_annotations_may_come_apart_from_the_source(model, annotated, tmp_path):
    file = tmp_path / "boxes.csv"
    file.write_text("path,x0,y0,x1,y1\n00.png,0,0,9,9\n03.png,0,0,9,9\n")
    bare = images(annotated.name.split(" | ")[0])
    found = scan_variants(
        model,
        bare,
        [Variant("plain"), Variant("kept", images=(keep_boxes(),))],
        METERS,
        annotations=foregrounds(boxes=file),
        max_skip=1.0,
    )
    for one in found.values():  # an image that one variant cannot use is in none
        assert [image.path for image in one.images] == ["00.png", "03.png"]
        assert {entry.reason for entry in one.skipped} == {"no_annotation"}
    with pytest.raises(SourceError, match="9 of 11 images were skipped, more than 5%: 9 no_annotation"):
        scan_variants(
            model,
            bare,
            [Variant("kept", images=(keep_boxes(),))],
            METERS,
            annotations=foregrounds(boxes=file),
        )


def test_progress_is_told_in_entries(model, annotated):
    told = []
    scan_variants(model, annotated, GRID[:2], METERS, on_progress=lambda *facts: told.append(facts))
    assert told == [(11, 11)]


def test_what_is_asked_is_checked_before_the_first_image(model, annotated):
    with pytest.raises(BadValue, match="two variants are called 'a'"):
        scan_variants(model, annotated, [Variant("a"), Variant("b"), Variant("a")], METERS)
    with pytest.raises(BadValue, match="give at least one variant"):
        scan_variants(model, annotated, [], METERS)
    with pytest.raises(BadValue, match="two meters are called 'moments'"):
        scan_variants(model, annotated, GRID, [*METERS, Moments("norm")])
    with pytest.raises(UnknownSite, match="no site 'block'"):
        scan_variants(model, annotated, GRID, [Moments("block")])
    for numbers in ({"batch_size": 0}, {"max_skip": 1.5}):
        with pytest.raises(BadValue, match="batch_size must be at least 1 and max_skip between 0 and 1"):
            scan_variants(model, annotated, GRID, METERS, **numbers)


def test_a_new_intervention_is_a_value_with_one_method(model, annotated):
    class Inverted:
        def on_view(self, batch: ImageBatch) -> ImageBatch:
            return replace(batch, pixels=1 - batch.pixels)

        def __repr__(self) -> str:
            return "inverted()"

    class Darkened:
        def on_original(self, picture):
            return replace(picture, pixels=picture.pixels // 2)

        def __repr__(self) -> str:
            return "darkened()"

    grid = [Variant("plain"), Variant("both", images=(Darkened(), Inverted()))]
    found = scan_variants(model, annotated, grid, METERS)
    assert not np.allclose(
        found["plain"]["moments"]["logits"].mean, found["both"]["moments"]["logits"].mean, atol=1e-3
    )


@pytest.mark.real
def test_real_background_and_foreground_of_a_photo(shared):
    """The two halves of a real photograph, as the model is shown them, add up to it."""
    from vitscope.data.source import Shard
    from vitscope.data.stream import stream_variants
    from vitscope.models.vision_model import Preprocessing

    boxes = foregrounds(boxes=shared / "tiny-imagenet" / "boxes.csv", edges="pixels")
    source = images(shared / "tiny-imagenet" / "val.tar.gz", limit=6).annotated(boxes)
    exact = Preprocessing(size=(64, 64), resize=64)
    several = stream_variants(
        source, Shard("", 0, 6), exact, [(), (keep_boxes(),), (drop_boxes(),)], batch_size=6, on_skip=print
    )
    (whole, kept, dropped) = next(several)
    assert torch.equal(kept.pixels + dropped.pixels, whole.pixels)
    assert not (kept.pixels * dropped.pixels).any()
    inside = whole.foreground.bool()[:, None].expand_as(whole.pixels)
    assert torch.equal(kept.pixels[inside], whole.pixels[inside])
    assert not kept.pixels[~inside].any()
