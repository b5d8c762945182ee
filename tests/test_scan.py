"""Scans: one pass for all meters, shards, merging, skips, full memory; faults 29, 32, 33, 53, 95, 106."""

import importlib
import io
import logging
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image

from vitscope.data.source import RawImage, Shard, Skipped, cut
from vitscope.errors import BadValue, DeviceError, Failure, SourceError, UnknownSite
from vitscope.meters.moments import Moments
from vitscope.meters.topk import TopK
from vitscope.parts import Part, check_skipped, merge_parts
from vitscope.scan import scan, scan_shard
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit

METERS = [TopK(k=3), TopK(k=3, rank="mean"), Moments()]


def png(index: int) -> bytes:
    noise = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


@dataclass
class Memory:
    """A source in memory."""

    contents: list[bytes]
    name: str = "memory:"
    fingerprint: str = "sha256:0"
    classes: tuple[str, ...] | None = None
    read_shards: list[str] = field(default_factory=list)

    def __len__(self):
        return len(self.contents)

    def shards(self, size=512):
        return cut(len(self), size)

    def read(self, shard):
        self.read_shards.append(shard.id)
        for index in range(shard.start, shard.stop):
            yield self.find(f"{index}.png")

    def find(self, path):
        content = self.contents[int(path.removesuffix(".png"))]
        return RawImage(path, content, 7) if content else Skipped(path, "unreadable", "empty")

    def describe(self):
        return {"name": self.name}


@pytest.fixture(scope="module")
def model():
    return tiny_vit()


@pytest.fixture(scope="module")
def source():
    return Memory([png(index) for index in range(21)])


def same(one, other, *, exactly=True):
    here, there = one.arrays(), other.arrays()
    assert here.keys() == there.keys()
    for name, array in here.items():
        if exactly:
            np.testing.assert_array_equal(array, there[name], err_msg=name)
        elif array.dtype.kind == "f":
            np.testing.assert_allclose(array, there[name], rtol=1e-5, atol=1e-5, err_msg=name)


def whole(source):
    return Shard("all", 0, len(source))


def test_exemplars_and_moments_equal_brute_force(model, source):
    found = scan(model, source, METERS)
    sites = model.sites("blocks.*.ffn")
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(io.BytesIO(one)))) for one in source.contents])
    pixels = pixels.permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        truth = read(model, pixels, sites)
    ids = [source.find(f"{index}.png").id for index in range(len(source))]
    for site in sites:
        values = truth[site.name][:, site.prefix_tokens :].numpy()
        for rank, score in (("maximum", values.max(1)), ("mean", values.mean(1, dtype=np.float64))):
            exemplars = found[f"topk_{rank}"][site.name]
            for unit in range(site.units):
                order = sorted(range(len(ids)), key=lambda one: (-score[one, unit], ids[one]))[:3]
                np.testing.assert_allclose(
                    [one.value for one in exemplars.of(unit)], score[order, unit], rtol=1e-4, atol=1e-5
                )
                best = exemplars.of(unit)[0]
                image = ids.index(best.image)
                assert values[image, best.place - 1, unit] == pytest.approx(
                    values[image, :, unit].max(), rel=1e-4, abs=1e-5
                )
        np.testing.assert_allclose(
            found["moments"][site.name].variance, values.var((0, 1), dtype=np.float64), rtol=1e-3
        )
    assert [image.id for image in found.images] == ids
    assert (found.images[3].path, found.images[3].label) == ("3.png", 7)
    assert found.skipped == ()


def test_all_meters_share_one_pass(model, source, monkeypatch):
    calls = []
    monkeypatch.setattr(
        type(model),
        "preprocess",
        lambda self, pixels: calls.append(1) or self.preprocessing.normalise(pixels),
    )
    scan_shard(model, source, whole(source), METERS, batch_size=8)
    assert len(calls) == 3


def test_a_pass_stops_after_the_last_site(model, source):
    reached = []
    handle = model.module.blocks[2].register_forward_hook(lambda *_: reached.append(1))
    try:
        scan_shard(model, source, whole(source), [TopK("blocks.0.ffn")])
        assert reached == []
        scan_shard(model, source, whole(source), [TopK("blocks.0.ffn"), Moments("blocks.2")])
        assert len(reached) == 3
    finally:
        handle.remove()


def test_a_scan_leaves_no_trace(model, source):
    model.module.train()
    before = {name: weight.clone() for name, weight in model.module.state_dict().items()}
    scan(model, source, METERS)
    assert model.module.training
    model.module.eval()
    assert all(weight.requires_grad and weight.grad is None for weight in model.module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())
    assert all(torch.equal(before[name], weight) for name, weight in model.module.state_dict().items())


@pytest.mark.parametrize("make", [tiny_vit, tiny_cnn])
def test_fault_095_one_shard_equals_seven_in_any_order(make, source):
    other = make()
    pattern = "blocks.*.ffn" if make is tiny_vit else "stages.*.*"
    meters = [TopK(pattern, k=3), TopK(pattern, k=3, rank="mean"), Moments(pattern)]
    parts = [scan_shard(other, source, shard, meters, batch_size=3) for shard in source.shards(3)]
    assert len(parts) == 7
    merged = merge_parts(parts)
    same(merge_parts(parts[::-1]), merged)
    same(merge_parts(parts[3:] + parts[:3] + parts[2:5]), merged)
    one = scan_shard(other, source, whole(source), meters, batch_size=3)
    same(one, merged, exactly=False)
    for name in ("topk_maximum", "topk_mean"):
        same(one.states[name], merged.states[name])
    assert one.images == merged.images


def test_fault_106_a_batch_of_eight_equals_eight_of_one(model, source):
    one, eight = (scan_shard(model, source, whole(source), METERS, batch_size=size) for size in (1, 8))
    same(one, eight, exactly=False)


def test_fault_029_a_duplicate_file_fills_one_slot(model):
    doubled = Memory([png(index // 2) for index in range(12)])
    found = scan(model, doubled, [TopK(k=9)], batch_size=5, shard_size=5)
    exemplars = found["topk_maximum"]["blocks.1.ffn"]
    assert exemplars.count.max() == 6
    assert len({one.image for one in exemplars.of(0)}) == 6


def test_a_part_survives_being_a_file(model, source, tmp_path):
    part = scan_shard(model, Memory([*source.contents[:5], b""]), Shard("a", 0, 6), METERS)
    np.savez(tmp_path / "part.npz", **part.arrays())
    with np.load(tmp_path / "part.npz") as arrays:
        again = Part.from_arrays(dict(arrays), part.header(), sites=model.sites, meters=METERS)
    same(again, part)
    assert again.shards == part.shards
    assert again.skipped == (Skipped("5.png", "unreadable", "empty"),)


def test_a_shard_counts_once(model, source):
    first, second = (scan_shard(model, source, shard, METERS) for shard in source.shards(11))
    both = merge_parts([first, second])
    same(merge_parts([first, second, first]), both)
    same(merge_parts([both, second]), both)
    assert len(merge_parts([both, first]).images) == 21
    third = scan_shard(model, source, Shard("x", 0, 2), METERS)
    with pytest.raises(BadValue, match="overlap in shard"):
        merge_parts([both, merge_parts([second, third])])
    with pytest.raises(BadValue, match="no part to merge"):
        merge_parts([])


def test_an_engine_may_finish_shards_in_any_order(model, source):
    class Backwards:
        def map(self, task, work):
            for piece in reversed(list(work)):
                yield piece, task(piece)

    expected = scan(model, source, METERS, shard_size=4)
    found = scan(model, source, METERS, shard_size=4, engine=Backwards())
    assert found.images == expected.images
    np.testing.assert_array_equal(
        found["moments"]["blocks.0.ffn"].variance, expected["moments"]["blocks.0.ffn"].variance
    )


def test_progress_is_told_in_entries(model, source):
    told = []
    scan(model, source, [Moments()], shard_size=8, on_progress=lambda *facts: told.append(facts))
    assert told == [(8, 21), (16, 21), (21, 21)]


def test_fault_032_all_images_bad(model):
    with pytest.raises(SourceError, match=r"memory: has no image that could be read: 4 unreadable"):
        scan(model, Memory([b""] * 4), METERS, max_skip=1.0)
    with pytest.raises(SourceError, match=r"4 of 4 images were skipped, more than 5%: 4 unreadable"):
        scan(model, Memory([b""] * 4), METERS)
    with pytest.raises(SourceError, match=r"memory: has no image that could be read\."):
        scan(model, Memory([]), METERS)


def test_fault_033_too_many_skipped(model, source):
    spoiled = Memory([*source.contents[:8], b"", b"<html>", b""])
    with pytest.raises(
        SourceError, match=r"3 of 11 images were skipped.*2 unreadable|3 unreadable"
    ) as caught:
        scan(model, spoiled, METERS)
    assert "'8.png'" in str(caught.value)
    assert "scan and build allow more with max_skip, `vitscope build` with --max-skip." in str(caught.value)
    found = scan(model, spoiled, METERS, max_skip=0.3)
    assert (len(found.images), len(found.skipped)) == (8, 3)
    check_skipped(scan_shard(model, spoiled, whole(spoiled), METERS), total=60)


def test_a_hopeless_source_is_given_up_early(model):
    spoiled = Memory([b""] * 10 + [png(index) for index in range(10)])
    with pytest.raises(SourceError, match="of 20"):
        scan(model, spoiled, METERS, shard_size=2)
    assert len(spoiled.read_shards) == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        MemoryError(),
    ],
)
def test_fault_053_out_of_memory_halves_the_batch(model, source, monkeypatch, caplog, error):
    forward = model.module.blocks[1].forward

    def narrow(tokens, **kwargs):
        if len(tokens) > 2:
            raise error
        return forward(tokens, **kwargs)

    monkeypatch.setattr(model.module.blocks[1], "forward", narrow)
    with caplog.at_level(logging.WARNING):
        part = scan_shard(model, source, whole(source), METERS, batch_size=8)
    assert part.batch_size == 2
    assert "out of memory with 8 images at once: shard all again with 4" in caplog.text
    monkeypatch.undo()
    same(part, scan_shard(model, source, whole(source), METERS, batch_size=2))
    same(part, scan_shard(model, source, whole(source), METERS, batch_size=8), exactly=False)


def test_fault_053_a_scan_remembers_the_batch_that_fits(model, source, monkeypatch, caplog):
    forward = model.module.blocks[1].forward

    def narrow(tokens, **kwargs):
        if len(tokens) > 2:
            raise MemoryError
        return forward(tokens, **kwargs)

    monkeypatch.setattr(model.module.blocks[1], "forward", narrow)
    with caplog.at_level(logging.WARNING):
        scan(model, source, METERS, batch_size=4, shard_size=7)
    assert len(caplog.records) == 1


def test_fault_053_a_single_image_that_does_not_fit_is_an_error(model, source, monkeypatch):
    def never(tokens, **kwargs):
        raise MemoryError("full")

    monkeypatch.setattr(model.module.blocks[1], "forward", never)
    with pytest.raises(DeviceError, match=r"does not fit into the memory of cpu with one image: full"):
        scan_shard(model, source, whole(source), METERS)


def test_an_error_in_a_meter_names_meter_and_site(model, source, monkeypatch):
    monkeypatch.setattr("vitscope.meters.moments._Sums.add", lambda *_: [][1])
    with pytest.raises(Failure, match=r"the meter 'moments' failed at blocks.0.ffn: IndexError"):
        scan_shard(model, source, whole(source), METERS)


def test_an_error_of_the_model_is_not_taken_for_full_memory(model, source, monkeypatch):
    def broken(tokens, **kwargs):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(model.module.blocks[1], "forward", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        scan_shard(model, source, whole(source), METERS)


def test_what_is_asked_is_checked_before_the_first_image(model):
    unread = Memory([png(0)])
    with pytest.raises(BadValue, match="two meters are called 'topk_maximum'"):
        scan(model, unread, [TopK("blocks.0"), TopK("blocks.1")])
    with pytest.raises(BadValue, match="at least one meter"):
        scan(model, unread, [])
    with pytest.raises(UnknownSite, match=r"no site 'block.0.ffn'"):
        scan(model, unread, [TopK("block.0.ffn")])
    with pytest.raises(BadValue, match="batch_size and shard_size must be at least 1"):
        scan(model, unread, METERS, batch_size=0)
    assert unread.read_shards == []


def test_a_site_that_several_meters_want_is_read_once(model, source, monkeypatch):
    module = importlib.import_module("vitscope.passes")
    fired = []

    class Counting(module.Reading):
        def __init__(self, site, *rest):
            fired.append(site.name)
            super().__init__(site, *rest)

    monkeypatch.setattr(module, "Reading", Counting)
    scan_shard(model, source, whole(source), METERS, batch_size=21)
    assert fired == ["blocks.0.ffn", "blocks.1.ffn", "blocks.2.ffn"]


@pytest.mark.real
def test_real_exemplars_equal_a_full_sort(shared):
    from vitscope.data import images
    from vitscope.data.stream import stream
    from vitscope.models import load

    model = load(
        "timm:vit_tiny_patch16_224", weights=str(shared / "weights/vit_tiny_patch16_224.safetensors")
    )
    source = images(f"folder:{shared / 'imagenet1k-sample'}")
    shard, meters = Shard("a", 0, 16), [TopK("blocks.5.ffn", k=9), Moments("blocks.5.ffn")]
    part = scan_shard(model, source, shard, meters)
    site = model.site("blocks.5.ffn")
    truth, ids = [], []
    with torch.no_grad():
        for batch in stream(source, shard, model.preprocessing, batch_size=8, on_skip=lambda _: None):
            truth.append(read(model, batch.pixels, [site])[site.name][:, 1:])
            ids += batch.ids
    score = torch.cat(truth).amax(1)
    found = part.states["topk_maximum"].result()["blocks.5.ffn"]
    for unit in range(site.units):
        order = sorted(range(16), key=lambda one: (-float(score[one, unit]), ids[one]))[:9]
        assert [one.image for one in found.of(unit)] == [ids[one] for one in order]
    variance = torch.cat(truth).double().flatten(0, 1).var(0, unbiased=False)
    np.testing.assert_allclose(
        part.states["moments"].result()["blocks.5.ffn"].variance, variance.numpy(), rtol=1e-5
    )
