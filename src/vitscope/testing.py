"""For tests, ours and those of plugins: small models, and the contract that every source must satisfy."""

from __future__ import annotations

import re
from typing import Any

import torch
from timm import create_model
from torch import nn

from vitscope.contracts import AdapterContract as AdapterContract
from vitscope.contracts import StructureContract as StructureContract
from vitscope.data.source import ImageSource, RawImage, Shard, Skipped, image_id
from vitscope.models import load
from vitscope.models.checkpoints import seeded
from vitscope.models.vision_model import VisionModel

SPREAD = 5.0
"""Factor on freshly initialised linear maps: attention is then far from flat, and logits differ."""


def stirred(module: nn.Module, *, seed: int = 0) -> nn.Module:
    """The same module under random weights that show mix-ups; changed in place.

    Fresh norms, biases and position tables are the same everywhere, fresh layer scales and some classifiers
    near zero, which hides what they do: half of a uniform number is added to each. Linear maps are spread.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            is_map = isinstance(part, (nn.Linear, nn.Conv2d))
            for weight in part.parameters(recurse=False):
                if not (is_map and weight.ndim > 1) or not weight.any():
                    weight.add_(0.5 * torch.rand(weight.shape, generator=draw))
                elif isinstance(part, nn.Linear):
                    weight.mul_(SPREAD)
    return module


def tiny_vit(*, seed: int = 0, **settings: Any) -> VisionModel:
    """A ViT of 3 blocks, 24 wide, 3 heads, on 4 x 4 patches of 8 pixels and a CLS token, with 10 logits.

    Args:
        seed: of its random weights.
        settings: override what timm's ViT is given: `reg_tokens=2`, `init_values=0.1`, `qk_norm=True`,
            `depth=1`, `class_token=False, global_pool="avg"`, `img_size=(32, 48)`, ...
    """
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 10}
    facts = {**shape, **settings}
    module = seeded(lambda: create_model("vit_tiny_patch16_224", **facts), seed=seed)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.weight.data.mul_(SPREAD)
    size = facts["img_size"]
    return load(module, sample=(size, size) if isinstance(size, int) else size, device="cpu")


def tiny_cnn(*, seed: int = 0) -> VisionModel:
    """A residual CNN of 5 blocks in 4 stages, 8 to 24 channels, with 10 logits. Its last maps are 1 x 1."""
    facts: dict[str, Any] = {
        "layers": (1, 2, 1, 1),
        "channels": (8, 12, 16, 24),
        "stem_width": 8,
        "num_classes": 10,
    }
    module = seeded(lambda: create_model("resnet18", zero_init_last=False, **facts), seed=seed)
    return load(module, sample=(32, 32), device="cpu")


class SourceContract:
    """What every source must satisfy. Inherit, with a fixture `source` of at least eight entries.

    >>> class TestMine(SourceContract):
    ...     @pytest.fixture
    ...     def source(self): return Mine("...")
    """

    BEGINNING = 105
    """How many entries of a large source are read: enough for seven shards."""

    def beginning(self, source: ImageSource) -> list[RawImage | Skipped]:
        """The first entries, as one shard: all of a small source."""
        return list(source.read(Shard("beginning", 0, min(len(source), self.BEGINNING))))

    def test_it_is_a_source(self, source: ImageSource) -> None:
        """It offers what the protocol asks for, and a fingerprint."""
        assert isinstance(source, ImageSource)
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", source.fingerprint)

    def test_shards_cover_everything_once(self, source: ImageSource) -> None:
        """Whatever the size of the shards, none is too large and every entry lies in one of them."""
        for size in (1, 3, 512):
            shards = source.shards(size)
            assert [entry for shard in shards for entry in range(shard.start, shard.stop)] == list(
                range(len(source))
            )
            assert len({shard.id for shard in shards}) == len(shards)
            assert all(1 <= len(shard) <= size for shard in shards)

    def test_one_shard_equals_seven(self, source: ImageSource) -> None:
        """How a source is cut changes nothing."""
        one = self.beginning(source)
        seven = source.shards(-(-len(one) // 7))[:7]
        assert [entry for shard in seven for entry in source.read(shard)] == one

    def test_reading_is_repeatable_and_backwards_too(self, source: ImageSource) -> None:
        """A shard is the same whenever it is read."""
        shards = source.shards(3)[:4]
        once = {shard.id: list(source.read(shard)) for shard in shards}
        assert {shard.id: list(source.read(shard)) for shard in reversed(shards)} == once

    def test_find_equals_read(self, source: ImageSource) -> None:
        """An entry's name finds it again."""
        entries = list(source.read(source.shards(8)[0]))
        assert len({entry.path for entry in entries}) == len(entries)
        assert [source.find(entry.path) for entry in entries] == entries

    def test_what_is_not_there_is_missing(self, source: ImageSource) -> None:
        """An unknown name is an answer, not an exception."""
        found = source.find("no/such/image.png")
        assert isinstance(found, Skipped)
        assert found.reason == "missing"

    def test_ids_are_hashes_of_the_bytes(self, source: ImageSource) -> None:
        """The identity of an image is that of its bytes."""
        for entry in source.read(source.shards(8)[0]):
            assert isinstance(entry, Skipped) or entry.id == image_id(entry.content)

    def test_labels_are_classes(self, source: ImageSource) -> None:
        """Labels index the classes, and there are none without them."""
        labels = [entry.label for entry in self.beginning(source) if isinstance(entry, RawImage)]
        known = range(len(source.classes or ()))
        assert all(label is None or label in known for label in labels)

    def test_it_describes_itself(self, source: ImageSource) -> None:
        """Provenance needs its name, size, fingerprint and licence."""
        facts = source.describe()
        assert facts["name"] == source.name
        assert facts["images"] == len(source)
        assert facts["fingerprint"] == source.fingerprint
        assert "licence" in facts
