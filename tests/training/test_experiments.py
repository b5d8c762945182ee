"""Experiments on training, on a hundred tiny images: shares of data, and models trained without skips."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from vitscope.models import bundled, load

sys.path.insert(0, str(Path(__file__).parents[2] / "training"))

import data_scale
import dataset
import fitting
import measuring
import skip_removal
import train

WNIDS = [label.wnid for label in bundled.CLASSES]
SMALL = fitting.Recipe(epochs=1, batch=16, warmup=1)
DRAWN = data_scale.draw


@pytest.fixture(scope="module")
def data(archives: Callable[[int, int], Path]) -> Path:
    return archives(80, 20)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "RECIPES", {"vit_mini": SMALL, "cnn_mini": SMALL})
    monkeypatch.setattr(train, "set_fused_attn", lambda _: None)
    monkeypatch.setattr(measuring, "set_fused_attn", lambda _: None)
    monkeypatch.setattr(data_scale, "draw", lambda _: {"data_scale": b"a figure"})
    monkeypatch.setattr(skip_removal, "draw", lambda _: b"a figure")


def split_of(count: int) -> dataset.Split:
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 64, 64)
    labels = torch.tensor([0] * (count // 4) + [1] * (count - count // 4))
    return dataset.Split(images, labels, torch.arange(count)[:, None].half())


def test_shares_are_nested_by_class_and_always_the_same() -> None:
    split, before = split_of(80), set[int]()
    for share, counts in ((0.03, [1, 2]), (0.1, [2, 6]), (0.3, [6, 18]), (1.0, [20, 60])):
        found = dataset.reduced(split, share=share)
        rows = found.images[:, 0, 0, 0].tolist()
        assert found.labels.bincount().tolist() == counts
        assert before <= set(rows)
        assert found.teacher is not None
        assert found.teacher[:, 0].tolist() == rows == sorted(rows)
        assert dataset.reduced(split, share=share).labels.tolist() == found.labels.tolist()
        before = set(rows)
    assert rows == list(range(80))


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_lies_between_0_and_1(share: float) -> None:
    with pytest.raises(typer.BadParameter, match="the share of the images is above 0 and at most 1"):
        dataset.reduced(split_of(8), share=share)


def test_a_run_on_another_share_is_not_continued(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"  # the cache is made beside it
    train.main("cnn_mini", data, out, share=0.5, threads=1)
    assert "40 training images of Tiny-ImageNet, 10 of each class" in (out / "cnn_mini.md").read_text()
    with pytest.raises(typer.BadParameter, match="another recipe"):
        train.main("cnn_mini", data, out, threads=1)


def test_every_share_has_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = replace(SMALL, epochs=24, batch=128, warmup=2, whole=4)
    monkeypatch.setattr(train, "RECIPES", {"vit_mini": usual})
    for images, epochs, warmup, whole in ((40_000, 12, 1, 2), (12_000, 40, 3, 7), (1_200, 416, 35, 69)):
        recipe = data_scale.recipe_for("vit_mini", share=images / 40_000, steps=3744, images=images, seed=3)
        assert (recipe.epochs, recipe.warmup, recipe.whole) == (epochs, warmup, whole)
        assert abs(recipe.epochs * (images // 128) - 3744) < images // 128
        assert (recipe.share, recipe.seed, recipe.distill) == (images / 40_000, 3, 0.0)


def test_data_scale_compares_every_share_with_a_reference_and_resumes(data: Path, tmp_path: Path) -> None:
    def run() -> bytes:
        settings = {"name": "cnn_mini", "steps": 5, "shares": [0.25], "images": 16, "gram": 8}
        data_scale.main(data, tmp_path / "out", threads=1, **settings)
        return (tmp_path / "out" / "data_scale.json").read_bytes()

    first = run()
    facts = json.loads(first)
    assert facts["sites"] == [f"stages.{site}" for site in ("0.0", "1.0", "1.1", "2.0", "2.1", "3.0")]
    assert [run["recipe"]["epochs"] for run in facts["runs"]] == [5]
    assert facts["reference"]["recipe"]["seed"] == 1
    assert facts["reference"]["cka"] == pytest.approx([1.0] * 6)
    val = dataset.read_split(data / "val.tar.gz", wnids=WNIDS, cache=tmp_path / "cache")
    grams = [
        measuring.grams_of(
            load("vitscope:cnn_mini", weights=str(tmp_path / "out" / part)), val, images=16, gram=8
        )
        for part in ("share_0.25_seed_0/cnn_mini.safetensors", "share_1_seed_1/cnn_mini.safetensors")
    ]
    expected = grams[0].cka(grams[1]).value.diagonal().tolist()
    assert facts["runs"][0]["cka"] == pytest.approx(expected, abs=1e-6)
    assert all(value < 0.9999 for run in facts["runs"] for value in run["cka"])

    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    assert len(stamps) == 2
    assert run() == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")} == stamps


def test_heads_are_told_of_where_there_are_any(data: Path, tmp_path: Path) -> None:
    val = dataset.read_split(data / "val.tar.gz", wnids=WNIDS, cache=tmp_path)
    vit = load("vitscope:vit_mini")
    for block in vit.module.blocks:
        torch.nn.init.zeros_(block.attn.qkv.weight)  # all keys have the same weight
    cells = 8 * np.stack(np.meshgrid(range(8), range(8)), axis=-1).reshape(64, 2)
    even = np.linalg.norm(cells[:, None] - cells, axis=-1).mean()
    assert np.allclose(measuring.distances_of(vit, val, images=8), np.full((6, 3), even), rtol=1e-5)
    assert measuring.distances_of(load("vitscope:cnn_mini"), val, images=8) == []


def test_heads_have_a_figure_of_their_own() -> None:
    run = {"share": 0.3, "top1": 0.1, "cka": [1.0, 0.5], "distance": [[20.0, 30.0], [25.0, 35.0]]}
    facts = {"model": "vit_mini", "reference": run, "runs": [run]}
    figures = DRAWN(facts)
    assert list(figures) == ["data_scale", "data_scale_heads"]
    assert all(figure.startswith(b"\x89PNG") for figure in figures.values())
    line = data_scale._heads("a share", run["distance"])
    assert (line.y, line.low, line.high) == ([25.0, 30.0], [20.0, 25.0], [30.0, 35.0])


def by_hand(block: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """A block of a ViT that hands on its branches alone."""
    tokens = block.attn(block.norm1(tokens))
    found: torch.Tensor = block.mlp(block.norm2(tokens))
    return found


def test_training_without_skips_is_that_of_a_model_that_has_none(data: Path, tmp_path: Path) -> None:
    split = dataset.read_split(data / "train.tar.gz", wnids=WNIDS, cache=tmp_path)
    split = dataset.Split(split.images[:32], split.labels[:32])
    device = torch.device("cpu")
    run, _ = skip_removal.trained(SMALL, split, block=2, out=tmp_path, device=device)
    other = fitting.Run("vit_mini", SMALL, device=device)
    changed = other.model.blocks[2]
    changed.forward = lambda tokens, **_: by_hand(changed, tokens)
    other.train_epoch(split)
    ours, theirs = run.model.state_dict(), other.model.state_dict()
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-5) for key in theirs)
    plain = fitting.Run("vit_mini", SMALL, device=device)
    plain.train_epoch(split)
    assert not torch.allclose(ours["norm.weight"], plain.model.state_dict()["norm.weight"], atol=1e-5)


def test_skip_removal_tells_what_training_without_skips_costs(data: Path, tmp_path: Path) -> None:
    def run() -> bytes:
        skip_removal.main(data, tmp_path / "out", blocks=[3], images=16, gram=16, share=0.2, threads=1)
        return (tmp_path / "out" / "skip_removal.json").read_bytes()

    first = run()
    plain, without = json.loads(first)["runs"]
    assert (plain["removed"], without["removed"]) == (None, 3)
    assert without["lost_top1"] == pytest.approx(100 * (plain["top1"] - without["top1"]))
    for prefix, cka in (("", without["cka"]), ("plain_", plain["cka"])):
        across = [cka[i][j] for i in range(3) for j in range(3, 6)]
        within = [cka[i][j] for part in ((0, 1, 2), (3, 4, 5)) for i in part for j in part if i != j]
        assert without[f"{prefix}across"] == pytest.approx(np.mean(across))
        assert without[f"{prefix}within"] == pytest.approx(np.mean(within))
    assert without["cka"] != plain["cka"]
    assert run() == first
