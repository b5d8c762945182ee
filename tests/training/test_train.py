"""The training script on a hundred tiny images: it learns, resumes exactly and exports what it measured."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors import safe_open

from vitscope.models import bundled

sys.path.insert(0, str(Path(__file__).parents[2] / "training"))

import dataset
import export
import fitting
import train

WNIDS = [label.wnid for label in bundled.CLASSES]
COUNT = 100


@pytest.fixture(scope="module")
def data(archives: Callable[[int, int], Path]) -> Path:
    return archives(COUNT, 20)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def small_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    vit = fitting.Recipe(epochs=2, batch=32, warmup=1, mixup=0.4, drop_patches=0.75, whole=1)
    cnn = fitting.Recipe(epochs=2, batch=32, warmup=1, rate=3e-3)
    monkeypatch.setattr(train, "RECIPES", {"vit_mini": vit, "cnn_mini": cnn})
    monkeypatch.setattr(train, "set_fused_attn", lambda _: None)


@pytest.mark.parametrize("name", bundled.NAMES)
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, data: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.main(name, data, whole, threads=1)
    train.main(name, data, parts, stop_after=1, threads=1)
    assert not (parts / f"{name}.safetensors").exists()
    torch.rand(7)  # whatever happened between the two calls
    train.main(name, data, parts, threads=1)

    one, other = (bundled.read_state(folder / f"{name}.safetensors") for folder in (whole, parts))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    fresh = bundled.build(name).state_dict()
    assert any(not torch.equal(one[key], fresh[key]) for key in one)


def test_the_export_is_half_precision_and_says_what_it_is(data: Path, tmp_path: Path) -> None:
    train.main("cnn_mini", data, tmp_path, threads=1)
    path = tmp_path / "cnn_mini.safetensors"
    with safe_open(path, framework="pt") as file:
        kinds = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118
        facts = file.metadata()
    assert kinds <= {torch.float16, torch.int64}
    assert path.stat().st_size < 8e6

    model = bundled.build("cnn_mini")
    model.load_state_dict(bundled.read_state(path), strict=True)
    split = dataset.read_split(data / "val.tar.gz", wnids=WNIDS, cache=tmp_path)
    top1, top5 = export.evaluate(model, split, device=torch.device("cpu"))
    assert (facts["top1"], facts["top5"]) == (f"{top1:.4f}", f"{top5:.4f}")
    assert json.loads(facts["classes"])[0] == list(bundled.CLASSES[0])
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    assert f"{top1:.2%}" in text
    assert "100 training images of Tiny-ImageNet" in text


def test_images_and_labels_survive_the_archive(data: Path, tmp_path: Path) -> None:
    first = dataset.read_split(data / "train.tar.gz", wnids=WNIDS, cache=tmp_path)
    again = dataset.read_split(data / "missing" / "train.tar.gz", wnids=WNIDS, cache=tmp_path)
    assert first.images.shape == (COUNT, 3, 64, 64)
    assert first.images.dtype == torch.uint8
    assert first.labels.tolist() == [index % 4 for index in range(COUNT)]
    assert torch.equal(first.images, again.images)
    brightness = first.images.float().mean((1, 2, 3))
    assert brightness[first.labels == 0].max() < brightness[first.labels == 3].min()


def test_the_teacher_is_asked_once_about_the_right_classes(tmp_path: Path) -> None:
    class Colour(torch.nn.Module):
        calls = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            Colour.calls += 1
            assert images.shape[1:] == (3, 224, 224)
            return images.mean((2, 3))

    images = torch.zeros(5, 3, 64, 64, dtype=torch.uint8)
    images[:, 2] = 255
    logits = dataset.teach(Colour(), images, columns=[2, 0], device=torch.device("cpu"))
    assert Colour.calls == 1
    assert logits.dtype == torch.float16
    assert logits.tolist() == [[1.0, -1.0]] * 5


def test_augmented_images_keep_their_range_and_mix_with_their_targets() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    recipe = fitting.Recipe(epochs=1, mixup=0.4)
    pixels = torch.randint(0, 256, (16, 3, 64, 64), dtype=torch.uint8)
    images, (targets,) = fitting.augment(pixels, [torch.eye(16)], recipe=recipe)
    assert images.shape == pixels.shape
    assert images.abs().max() <= 1
    torch.testing.assert_close(targets.sum(1), torch.ones(16))
    assert (targets > 0).sum() > 16


def test_crops_stay_inside_the_image_and_are_mirrored_half_of_the_time() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 64).expand(200, 3, 64, 64)
    slope = fitting.crop(ramp, scale=0.25).diff(dim=3)[..., 1:-1]
    rising, falling = (slope > 0).all((1, 2, 3)), (slope < 0).all((1, 2, 3))
    assert (rising ^ falling).all()
    assert 70 < rising.sum() < 130
    assert slope.abs().max() < 2 / 63 + 1e-4


def test_a_wrong_name_and_a_changed_recipe_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="vit_mini"):
        train.main("vit_huge", data, tmp_path)
    train.main("cnn_mini", data, tmp_path, stop_after=1, threads=1)
    with pytest.raises(typer.BadParameter, match="another recipe"):
        train.main("cnn_mini", data, tmp_path, seed=1, threads=1)


def test_a_plan_may_change_its_length_and_the_card_says_so(data: Path, tmp_path: Path) -> None:
    train.main("cnn_mini", data, tmp_path, epochs=3, stop_after=1, threads=1)
    train.main("cnn_mini", data, tmp_path, epochs=1, threads=1)
    text = (tmp_path / "cnn_mini.md").read_text(encoding="utf-8")
    assert "after epoch 1 the plan changed from 3 epochs (0 with every patch) to 1 epochs" in text
