"""Opening sources by a short text."""

import subprocess
import sys
import tarfile

import pytest
from PIL import Image

from vitscope.data import SOURCES, images
from vitscope.data.demo import Demo
from vitscope.data.folder import Folder
from vitscope.data.source import ImageSource
from vitscope.data.tar import Tar
from vitscope.errors import BadValue, MissingPath, UnknownName


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "1.png")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.add(folder / "1.png", "a/1.png")
    return folder


def test_a_text_opens_a_source(photos):
    for text in (f"folder:{photos}", str(photos), photos):
        source = images(text)
        assert isinstance(source, Folder)
        assert source.name == f"folder:{photos}"
    archive = photos.parent / "x.tar.gz"
    for text in (f"tar:{archive}", str(archive), archive):
        source = images(text)
        assert isinstance(source, Tar)
        assert source.name == f"tar:{archive}"
    assert isinstance(images("demo:"), Demo)


def test_an_open_source_passes_through(photos):
    source = images(photos)
    assert images(source) is source
    with pytest.raises(BadValue, match="photos is open already: give labels when opening it"):
        images(source, labels="labels.csv")


def test_options_reach_the_source(photos):
    (photos / "labels.csv").write_text("path,label\n1.png,dog\n")
    assert images(photos, labels=photos / "labels.csv").classes == ("dog",)
    (photos / "out.png").symlink_to(sys.executable)
    assert [entry.path for entry in images(photos, links_followed=True).read(images(photos).shards()[0])] == [
        "1.png",
        "out.png",
    ]


def test_options_that_a_source_does_not_take(photos):
    with pytest.raises(BadValue, match="the source 'demo:' takes no labels"):
        images("demo:", labels="labels.csv")
    with pytest.raises(BadValue, match="the source 'tar:' takes no links_followed"):
        images(photos.parent / "x.tar.gz", links_followed=True)


@pytest.mark.parametrize("text", ["foldr:photos", "foldr"])
def test_an_unknown_scheme_names_the_nearest(text):
    with pytest.raises(UnknownName, match=r"no source .*Nearest: 'folder.*There are: folder"):
        images(text)


def test_fault_022_a_path_that_is_not_there(tmp_path):
    with pytest.raises(MissingPath, match=r"no folder or archive '.*/nowhere'") as caught:
        images(tmp_path / "nowhere")
    assert caught.value.exit_code == 2
    with pytest.raises(MissingPath, match="no folder 'nowhere' to read images from: it does not exist"):
        images("folder:nowhere")


def test_a_new_source_is_a_name_in_the_table(monkeypatch, photos):
    monkeypatch.setitem(SOURCES._table, "twice", lambda rest: images(rest))
    assert isinstance(images(f"twice:{photos}"), ImageSource)


def test_importing_the_shelf_opens_no_drawer():
    check = (
        "import sys, vitscope.data\n"
        "late = {'timm', 'torchvision', 'PIL', 'vitscope.data.decode', 'vitscope.data.demo'}\n"
        "assert not late & set(sys.modules), late & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
