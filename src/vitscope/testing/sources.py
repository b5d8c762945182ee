"""The contract that every source must satisfy."""

from __future__ import annotations

import re

from vitscope.data.source import ImageSource, RawImage, Shard, Skipped, image_id


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
