"""An atlas made of invented rows, without a model: two sites, one with two leaves and a grid, one small
without. And one built over invented pictures."""

import functools
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitscope.atlas.building import build
from vitscope.atlas.leaf import DreamRow, ExemplarRow, UnitRow, digest, sprite, table_bytes
from vitscope.atlas.manifest import Manifest, SiteLayout
from vitscope.atlas.store import Store
from vitscope.data import images
from vitscope.data.source import ImageSource
from vitscope.dream.recipes import GHIASI_2022
from vitscope.models.vision_model import VisionModel
from vitscope.provenance import Provenance
from vitscope.testing import tiny_vit

SITES = (
    SiteLayout("blocks.1.ffn", "image token unit", 300, (2, 3), 1),
    SiteLayout("logits", "image unit", 5),
)
QUICK = GHIASI_2022.replace(name="quick", steps=2, copies=2)
SITE = "blocks.1.ffn"
DEAD, CONSTANT = 5, 6
SETTINGS = {"sites": SITE, "k": 3, "shard_size": 4, "dreams": 3, "recipe": QUICK, "batch_size": 2}


def manifest(**changes) -> Manifest:
    facts = {
        "provenance": Provenance(
            "atlas", "tiny", "sha256:00", {"size": [8, 8]}, source="sha256:11", versions={"vitscope": "0"}
        ),
        "source": {"name": "folder:photos", "licence": "CC0"},
        "sites": SITES,
        "k": 2,
        "meters": ("TopK", "Moments"),
        "histogram_edges": (0.0, 1.0),
        "dreams": {"count": 1, "recipe": {"name": "quick"}, "seed": 0},
        "shard_size": 4,
        "images": 6,
    }
    return Manifest(**{**facts, **changes})


def picture(value: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(sink, "WEBP", lossless=True)
    return sink.getvalue()


def image_of(unit: int, rank: int) -> str:
    return f"{unit % 3 * 16 + rank:032x}"


@functools.cache
def leaf_files(site: SiteLayout, leaf: int) -> dict[str, bytes]:
    """Unit 1 of every leaf is dead, unit 2 has a dream."""
    units, exemplars, pack = [], [], b""
    for unit in site.members(leaf):
        dead, dreams = unit == 1, ()
        if unit % 256 == 2:
            webp = picture(unit % 256)
            dreams = (
                DreamRow("quick", 0, 1.5, 0.5, '{"robust": 0.5}', "ok", len(pack), len(webp), digest(webp)),
            )
            pack += webp
        units.append(
            UnitRow(
                unit, "dead" if dead else "ok", 24, 0.5, float("nan") if unit == 3 else 0.25, 0.0, 1.0, 0.1,
                0, 0, (1, 20, 3), (), dreams,
            )
        )  # fmt: skip
        for ranking in ("maximum", "mean"):
            for rank in range(0 if dead else 2):
                grid = bytes(range(6)) if site.grid else None
                low, high = (0.0, 1.0) if grid else (None, None)
                exemplars.append(
                    ExemplarRow(
                        unit, ranking, rank, image_of(unit, rank), f"cat/{rank}.png", "cat", 9.0 - rank,
                        site.place_name(rank + site.prefix_tokens) if ranking == "maximum" else "", low,
                        high, grid,
                    )
                )  # fmt: skip
    return {
        "units.parquet": table_bytes(units, of=UnitRow),
        "exemplars.parquet": table_bytes(exemplars, of=ExemplarRow),
        "pack": pack,
        "sprite.webp": sprite({unit % 256: picture(unit % 256) for unit in site.members(leaf)[:3]}),
    }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A complete atlas in `tmp_path / "tiny.atlas"`."""
    store = Store.prepare(tmp_path / "tiny.atlas", manifest())
    for unit in range(3):
        for rank in range(2):
            path = store.thumbnail_file(image_of(unit, rank))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(rank))
    for site, leaf in store.leaves():
        store.commit_leaf(site.name, leaf, leaf_files(site, leaf))
    return store


def rewrite(path: Path, **changes) -> None:
    """Change some keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@functools.cache
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


@pytest.fixture(scope="session")
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
