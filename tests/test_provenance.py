"""Provenance survives JSON and PNG, and files without it are refused."""

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vitscope.errors import BadValue, MissingPath
from vitscope.provenance import TEXT_CHUNK, Provenance, explain, versions

MADE = Provenance("dream", "vitscope:vit_mini", "sha256:0", {"size": [64, 64]}, settings={"seed": 3})


def test_it_names_the_libraries_whose_arithmetic_counts():
    assert set(versions()) == {"vitscope", "torch", "torchvision", "timm", "numpy", "pillow"}


def test_json_and_back():
    assert Provenance.from_json(MADE.to_json()) == MADE


def test_a_png_carries_it(tmp_path):
    text = PngInfo()
    text.add_text(TEXT_CHUNK, MADE.to_json())
    Image.new("RGB", (2, 2)).save(tmp_path / "dream.png", pnginfo=text)
    assert explain(tmp_path / "dream.png") == MADE


def test_an_atlas_folder_carries_it(tmp_path):
    (tmp_path / "atlas.json").write_text(f'{{"provenance": {MADE.to_json()}}}')
    assert explain(tmp_path) == MADE


def test_other_files_are_refused(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "plain.png")
    (tmp_path / "note.txt").write_text("hello")
    for name in ("plain.png", "note.txt"):
        with pytest.raises(BadValue, match="carries no vitscope provenance"):
            explain(tmp_path / name)
    with pytest.raises(MissingPath, match=r"no such file: .*nothing\.png"):
        explain(tmp_path / "nothing.png")
