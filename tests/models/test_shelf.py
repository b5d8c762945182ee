"""The front door: `load` and `find`, devices and types; and real models on real images."""

import csv
import subprocess
import sys

import pytest
import torch
from torch import nn

from vitscope.data.decode import decode, view
from vitscope.errors import BadValue, DeviceError, UnknownModel
from vitscope.models import CATALOGUES, MODELS, find, load
from vitscope.testing import tiny_vit


def test_every_entry_of_the_registries_resolves():
    assert all(callable(MODELS.get(name)) for name in MODELS)
    assert all(CATALOGUES.get(name)() for name in CATALOGUES if name != "hf")
    assert isinstance(CATALOGUES.get("hf")(), list)  # what has been fetched to this machine: perhaps nothing


def test_importing_the_shelf_imports_no_torch():
    code = "import sys, vitscope.models; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_find_searches_all_libraries():
    assert find("vit_mini") == ["vitscope:vit_mini"]
    assert {"timm:resnet18", "timm:resnet18.a1_in1k", "tv:resnet18"} <= set(find("resnet18"))
    assert find("tv:resnet1*") == ["tv:resnet101", "tv:resnet152", "tv:resnet18"]
    assert find("tv:resnet18") == ["tv:resnet18"]
    assert find("no such model") == []
    with pytest.raises(UnknownModel, match="no list of models for 'hub'"):
        find("hub:x")


def test_fault_056_a_missing_gpu_is_an_error_that_suggests_auto(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    module = tiny_vit().module
    with pytest.raises(DeviceError, match=r"no device 'cuda': this machine has 0 .* Try --device auto"):
        load(module, sample=(32, 32), device="cuda")
    assert load(module, sample=(32, 32), device="auto").device == torch.device("cpu")
    with pytest.raises(BadValue, match="no device 'gpu': say auto, cpu, cuda"):
        load(module, sample=(32, 32), device="gpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_the_type_of_the_weights_is_a_choice(dtype):
    model = load(tiny_vit().module, sample=(32, 32), device="cpu", dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    assert len(model.sites) == 40


def test_an_unknown_type_is_an_error():
    with pytest.raises(BadValue, match=r"no dtype 'float8'\. There are: float32, bfloat16"):
        load("vitscope:vit_mini", dtype="float8")


def test_a_module_keeps_its_weights_and_random_is_refused():
    module = tiny_vit(depth=1).module
    before = module.head.weight.clone()
    assert torch.equal(load(module, sample=(32, 32), device="cpu").module.head.weight, before)
    with pytest.raises(BadValue, match="a module brings its own weights"):
        load(module, sample=(32, 32), weights="random")


def test_classes_and_preprocessing_can_be_given():
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).train()
    model = load(module, sample=(8, 8), classes=("cat", "dog"), device="cpu")
    assert model.classes == ("cat", "dog")
    assert not module.training


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "file", "atleast"),
    [
        ("timm:vit_tiny_patch16_224", "vit_tiny_patch16_224", 0.7),
        ("timm:deit_tiny_patch16_224", "deit_tiny_patch16_224", 0.68),
        ("tv:resnet18", "resnet18", 0.6),
    ],
)
def test_real_weights_know_real_images(shared, name, file, atleast):
    """The share of right answers says whether weights, preprocessing and class order belong together."""
    model = load(name, weights=str(shared / "weights" / f"{file}.safetensors"), device="cpu")
    folder = shared / "imagenet1k-sample"
    rows = list(csv.DictReader((folder / "classes.csv").read_text().splitlines()))[::25]
    right = 0
    for row in rows:
        content = next((folder / row["wnid"]).iterdir()).read_bytes()
        image = torch.from_numpy(view(decode(content).image, model.preprocessing).copy())
        pixels = image.permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            right += int(model.module(model.preprocess(pixels)).argmax()) == int(row["index"])
    assert right / len(rows) >= atleast
