"""docs/studies.md names every study, its settings, columns and arrays as they are; its Python runs."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitscope.data import images
from vitscope.studies import STUDIES, study
from vitscope.tables import study_table
from vitscope.testing.doubles import tiny_vit

PAGE = (Path(__file__).parents[1] / "docs" / "studies.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))


def first_cells(name, head):
    """The names in the first column of one of a section's tables."""
    found = re.search(rf"^\| {head} \|.*?\n\|[-|]+\n((?:\|.*\n)*)", SECTIONS[name], re.MULTILINE)
    rows = found.group(1).splitlines() if found else []
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row.split("|")[1])}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    text = "".join(f"{index}.png,{index}\n" for index in range(4))
    (folder / "labels.csv").write_text(f"path,index\n{text}")
    text = "".join(f"{index}.png,4,4,20,24\n{index}.png,24,8,32,32\n" for index in range(4))
    (folder / "boxes.csv").write_text(f"path,x0,y0,x1,y1\n{text}")
    return images(f"folder:{folder}", labels=folder / "labels.csv", boxes=folder / "boxes.csv")


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_study_has_a_section_with_its_settings(name):
    assert name in SECTIONS, f"docs/studies.md has no section {name!r}"
    shown = study_table([STUDIES.get(name).describe()]).columns[3]._cells[0]
    said = re.search(r"^Settings: (.*)$", SECTIONS[name], re.MULTILINE).group(1)
    assert said.replace("`", "") == shown


@pytest.mark.parametrize(
    "name",
    [
        "attention_distance",
        "clusters",
        "foreground",
        "frequency",
        "invariance",
        "last_layer",
        "localisation",
        "occlusion",
        "overview",
        "readout",
        "receptive_field",
        "shuffle",
        "similarity",
        "skip_removal",
        "skips",
        "spatial_cka",
        "views",
    ],
)
def test_columns_and_arrays_are_those_of_a_result(name, photos):
    result = study(name, tiny_vit(), photos)
    assert {column for row in result.table for column in row} == first_cells(name, "column")
    assert set(result.arrays) == first_cells(name, "array")


SMALL = {
    "concepts": {"k": 2},
    "drift": {"gram": 4},
    "matched_dreams": {"units": 1, "steps": 1, "copies": 1},
    "progression": {"units": 1, "steps": 1, "copies": 1, "best": 0},
    "sites_compared": {"units": 1, "steps": 1, "copies": 1},
}


@pytest.mark.parametrize("name", SMALL)
def test_columns_and_arrays_of_two_small_models(name, photos, tmp_path):
    (tmp_path / "kinds.csv").write_text("child,parent\n0,even\n2,even\n1,odd\n3,odd\n")
    table = {"wordnet": str(tmp_path / "kinds.csv")} if name == "concepts" else {}
    result = study(name, [tiny_vit(depth=1), tiny_vit(depth=1, seed=1)], photos, **SMALL[name], **table)
    assert {column for row in result.table for column in row} == first_cells(name, "column")
    assert set(result.arrays) == first_cells(name, "array")


@pytest.mark.parametrize("name", ["probe"])
def test_columns_and_arrays_of_what_needs_several_images_a_class(name, tmp_path):
    draw = np.random.default_rng(0)
    for index in range(6):
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    text = "".join(f"{index}.png,{index % 2}\n" for index in range(6))
    (tmp_path / "labels.csv").write_text(f"path,index\n{text}")
    result = study(name, tiny_vit(depth=1), images(f"folder:{tmp_path}", labels=tmp_path / "labels.csv"))
    assert {column for row in result.table for column in row} == first_cells(name, "column")
    assert set(result.arrays) == first_cells(name, "array")


def test_the_python_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    STUDIES.names()
    monkeypatch.setattr(STUDIES, "_table", dict(STUDIES._table))
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)).replace("limit(100)", "limit(4)")
    exec(compile(code, "docs/studies.md", "exec"), {})
    assert (tmp_path / "out" / "frequency" / "result.json").is_file()
    assert (tmp_path / "report" / "frequency.html").is_file()
