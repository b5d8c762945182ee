"""Opening models of timm, torchvision and the bundle, and modules of one's own."""

import json
import socket
import time

import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from torch import nn

from vitscope.errors import BadValue, MissingPath, NotCached, UnknownModel, WeightsError
from vitscope.models import bundled, from_bundled, from_module, from_timm, from_torchvision, load
from vitscope.models.vision_model import Preprocessing

SMALL = "test_vit.r160_in1k"  # 0.4 M parameters, one of timm's own models for tests


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and empty caches; hands back the folder of the hub's cache."""

    def refuse(*_, **__):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path / "hub"


def cache(folder, repository, files):
    """Put files into a hub cache as if they had been fetched."""
    root = folder / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / "a"
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a")
    for name, write in files.items():
        write(snapshot / name)


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_24", "vit_tiny_patch16_24"])
def test_fault_041_an_unknown_timm_name_gives_near_names(name):
    with pytest.raises(
        UnknownModel, match=r"no timm model 'vit_tiny_patch16_24'\. Nearest: 'vit_tiny_patch16_224'"
    ):
        load(name, weights="random")


def test_fault_041_an_unknown_torchvision_name_gives_near_names():
    with pytest.raises(UnknownModel, match=r"no torchvision model 'resnet19'\. Nearest: .*'resnet18'"):
        load("tv:resnet19", weights="random")


def test_fault_041_an_unknown_library_lists_what_there_is():
    with pytest.raises(
        UnknownModel, match=r"no model library 'tim'\. Nearest: 'timm'\. There are: timm, tv, vitscope"
    ):
        load("tim:resnet18")


def test_fault_042_a_bad_tag_lists_the_tags():
    with pytest.raises(
        UnknownModel, match=r"no tag 'a9_in1k' of timm:resnet18\. Nearest: .*There are: a1_in1k, "
    ):
        load("timm:resnet18.a9_in1k")
    with pytest.raises(UnknownModel, match=r"no weights 'V9' of tv:resnet50.*IMAGENET1K_V1, IMAGENET1K_V2"):
        load("tv:resnet50/V9")


@pytest.mark.parametrize("name", [SMALL, "tv:resnet18", "hf-hub:timm/test_vit.r160_in1k"])
def test_fault_043_pretrained_weights_while_offline_are_an_error_at_once(offline, name):
    start = time.monotonic()
    with pytest.raises(NotCached, match=r"not on this machine, and \S+ does not answer.*--weights FILE"):
        load(name)
    assert time.monotonic() - start < 2


def test_fault_043_an_offline_switch_is_respected(offline, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NotCached, match="HF_HUB_OFFLINE is set"):
        load(SMALL)


def test_cached_weights_need_no_network(offline):
    given = from_timm.open_timm(SMALL, weights="random", seed=3).module
    cache(
        offline,
        f"timm/{SMALL}",
        {
            "model.safetensors": lambda path: save_file(given.state_dict(), path),
            "config.json": lambda path: path.write_text(
                json.dumps({"architecture": "test_vit", "num_classes": 1000})
            ),
        },
    )
    for name in (SMALL, f"hf-hub:timm/{SMALL}"):
        model = load(name, device="cpu")
        assert torch.equal(model.module.head.weight, given.head.weight)
        assert model.name.endswith(SMALL)


def test_damaged_weights_in_the_cache_are_an_error(offline):
    cache(offline, f"timm/{SMALL}", {"model.safetensors": lambda path: path.write_bytes(b"half a fi")})
    with pytest.raises(WeightsError, match=f"cannot load the weights of timm:{SMALL}"):
        load(SMALL)


@pytest.mark.parametrize("prefix", ["", "timm:", "tv:", "vitscope:", "hf-hub:"])
def test_fault_044_a_path_is_not_a_name(prefix):
    with pytest.raises(UnknownModel, match=r"\.\."):
        load(f"{prefix}../../etc/passwd", weights="random")


def test_a_folder_is_opened_only_where_it_says_so(tmp_path):
    with pytest.raises(MissingPath, match=r"holds no config\.json"):
        load(f"local-dir:{tmp_path}")
    given = from_timm.open_timm(SMALL, weights="random", seed=3).module
    save_file(given.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit", "num_classes": 1000}))
    model = load(f"local-dir:{tmp_path}", device="cpu")
    assert torch.equal(model.module.head.weight, given.head.weight)


def test_a_file_of_weights_needs_no_network(offline, tmp_path):
    given = from_timm.open_timm(SMALL, weights="random", seed=3).module
    save_file({k: v.half() for k, v in given.state_dict().items()}, tmp_path / "w.safetensors")
    model = load(SMALL, weights=str(tmp_path / "w.safetensors"), device="cpu")
    assert torch.equal(model.module.head.weight, given.head.weight.half().float())
    assert model.dtype == torch.float32
    assert not model.module.training


def test_an_architecture_without_published_weights_says_so():
    published = {full.partition(".")[0] for full in timm.list_pretrained()}
    name = next(arch for arch in timm.list_models() if arch not in published)
    with pytest.raises(
        WeightsError, match=f"timm publishes no weights for {name}: say --weights random or a"
    ):
        load(name)


def test_random_weights_follow_the_seed():
    prints = [load(SMALL, weights="random", seed=seed, device="cpu").fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "deit_tiny_patch16_224"])
def test_the_preprocessing_of_timm_is_that_of_its_own_transform(name):
    bare = from_timm.open_timm(name, weights="random")
    facts, transform = bare.preprocessing, create_transform(**resolve_data_config(model=bare.module))
    resize, crop, _, normalise = transform.transforms
    assert (resize.size, crop.size) == (facts.resize, facts.size)
    assert resize.interpolation.value == facts.interpolation
    assert (tuple(normalise.mean.tolist()), tuple(normalise.std.tolist())) == (
        pytest.approx(facts.mean),
        pytest.approx(facts.std),
    )


def test_the_preprocessing_of_torchvision_is_that_of_its_own_transform():
    entry = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    facts = from_torchvision.preprocessing_of(entry.transforms())
    assert facts == Preprocessing((224, 224), 232, "bilinear")
    image = Image.linear_gradient("L").convert("RGB").resize((300, 250))
    resized = torchvision.transforms.functional.resize(image, [facts.resize], antialias=True)
    pixels = torchvision.transforms.functional.to_tensor(
        torchvision.transforms.functional.center_crop(resized, list(facts.size))
    )
    assert torch.allclose(facts.normalise(pixels[None])[0], entry.transforms()(image), atol=1e-5)


def test_models_of_1000_classes_know_their_names():
    timms = from_timm.open_timm(SMALL, weights="random").classes
    assert timms[207].startswith("golden retriever")
    theirs = from_torchvision.open_torchvision("resnet18", weights="random")
    assert theirs.classes[207] == "golden retriever"
    assert theirs.name == "tv:resnet18/IMAGENET1K_V1"
    assert from_timm.classes_of(nn.Linear(2, 2)) is None


def test_cropping_that_cannot_be_said_is_noted():
    module = nn.Module()
    module.pretrained_cfg = {"crop_mode": "squash", "crop_pct": 0.9, "input_size": (3, 32, 32)}
    assert "squashes" in from_timm._notes(module)[0]
    assert from_timm.preprocessing_of(module).resize is None


def test_a_bundled_model_brings_its_facts(monkeypatch):
    module = bundled.build("vit_mini")
    monkeypatch.setattr(bundled, "load_state", lambda _: module.state_dict())
    model = load("vitscope:vit_mini", device="cpu")
    assert model.preprocessing.size == (64, 64)
    assert len(model.classes) == model.site("logits").units == 200
    assert (model.site("blocks.5").grid, model.site("blocks.5").prefix_tokens) == ((8, 8), 1)
    with pytest.raises(UnknownModel, match="vit_mini, cnn_mini"):
        from_bundled.open_bundled("vit_mino")


def test_a_module_needs_to_say_its_size():
    with pytest.raises(BadValue, match="a module needs sample="):
        load(nn.Conv2d(3, 4, 3))
    with pytest.raises(BadValue, match=r"not of shape \(3, 8, 8\)"):
        load(nn.Conv2d(3, 4, 3), sample=torch.zeros(3, 8, 8))
    facts = Preprocessing((8, 8), 8)
    with pytest.raises(BadValue, match="the sample is 9 x 9 but the preprocessing says"):
        load(nn.Conv2d(3, 4, 3), sample=(9, 9), preprocessing=facts)
    bare = from_module.open_module(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 12))
    assert bare.preprocessing.size == (8, 12)
    assert not bare.module.training
