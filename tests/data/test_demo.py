"""The demo source: enough tiles, balanced, neither flat nor doubled, the same every time, and free to use."""

import subprocess
import sys
import time
from collections import Counter
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from vitscope.data import demo
from vitscope.data.demo import FLAT, PHOTOGRAPHS, SIDES, Demo
from vitscope.data.source import Shard
from vitscope.errors import BadValue, SourceError
from vitscope.testing import SourceContract


@pytest.fixture(scope="module")
def everything():
    source = Demo()
    return list(source.read(Shard("all", 0, len(source))))


class TestDemo(SourceContract):
    @pytest.fixture
    def source(self):
        return Demo()


def test_two_thousand_tiles_balanced_over_photographs(everything):
    counts = Counter(entry.path.split("/")[0] for entry in everything)
    assert len(everything) >= 2000
    assert set(counts) == set(PHOTOGRAPHS)
    assert len(set(counts.values())) == 1


def test_no_two_tiles_are_the_same_picture(everything):
    assert len({entry.id for entry in everything}) == len(everything)


def test_tiles_are_what_their_names_say(everything):
    assert {int(entry.path.split("/")[1][:3]) for entry in everything} == set(SIDES)
    for entry in everything[:200]:
        image = Image.open(BytesIO(entry.content))
        assert image.format == "PNG"
        assert image.size == (int(entry.path.split("/")[1][:3]),) * 2
        assert np.asarray(image.convert("L")).std() >= FLAT
        assert list(PHOTOGRAPHS)[entry.label] == entry.path.split("/")[0]


def test_a_tile_is_its_part_of_the_photograph():
    source = Demo()
    entry = next(entry for entry in source.read(Shard("", 0, 200)) if entry.path.startswith("coffee/"))
    side, row, column = (
        int("".join(filter(str.isdigit, part))) for part in entry.path.split("/")[1].split("_")
    )
    whole = np.asarray(Image.open(demo._file("coffee")))
    expected = whole[row : row + side, column : column + side]
    assert np.array_equal(np.asarray(Image.open(BytesIO(entry.content))), expected)


def test_shards_are_alike(everything):
    for shard in Demo().shards(512)[:4]:
        counts = Counter(entry.label for entry in everything[shard.start : shard.stop])
        assert len(counts) == len(PHOTOGRAPHS)
        assert min(counts.values()) >= 20


def test_opening_is_fast_and_imports_no_scikit_image():
    check = (
        "import sys, time\nfrom vitscope.data.demo import Demo\nbegan = time.process_time()\nDemo()\n"
        "print(time.process_time() - began)\nassert 'skimage' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 1.0
    began = time.process_time()
    Demo()
    assert time.process_time() - began < 0.1, "the second opening computes nothing again"


def test_every_photograph_states_its_licence():
    licences = Demo().describe()["licence"]
    assert set(licences) == set(PHOTOGRAPHS)
    assert all(word.startswith(("CC0", "public domain", "no known copyright")) for word in licences.values())


def test_errors_say_what_is_missing(monkeypatch, tmp_path):
    with pytest.raises(BadValue, match="the source 'demo:' takes no path, but was given 'photos'"):
        Demo("photos")
    monkeypatch.setattr(demo, "find_spec", dict[str, None]().get)
    with pytest.raises(
        SourceError, match="demo: needs the photographs of scikit-image: pip install scikit-image"
    ):
        demo._file("coffee")
    monkeypatch.undo()
    monkeypatch.setitem(PHOTOGRAPHS, "coffee", ("tea.png", "CC0"))
    with pytest.raises(SourceError, match=r"demo: this scikit-image does not carry tea.png"):
        demo._file("coffee")
