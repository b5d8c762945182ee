"""Vision models of transformers: folders and the hub's cache, weights, preprocessing, classes, and errors."""

import json
import shutil
import socket
import sys
import time
from unittest.mock import Mock

import pytest
import torch
import transformers
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file

from vitscope.errors import MissingExtra, MissingPath, NotCached, UnknownModel, WeightsError
from vitscope.models import checkpoints, find, from_transformers

SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "image_size": 64, "patch_size": 16,
}  # fmt: skip
WORDS = {**SHAPE, "hidden_size": 16, "num_attention_heads": 2}
SHOWN = {
    "image_processor_type": "ViTImageProcessor", "size": {"height": 64, "width": 64}, "resample": 3,
    "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6],
}  # fmt: skip


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    """No network, and an empty cache whose folder is handed back."""
    monkeypatch.setattr(socket, "create_connection", Mock(side_effect=OSError("no network in tests")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def tiny(**changes) -> transformers.ViTForImageClassification:
    torch.manual_seed(3)
    return transformers.ViTForImageClassification(transformers.ViTConfig(**{**SHAPE, **changes})).eval()


def saved(module, folder, shown=SHOWN, **facts):
    """As transformers saves a model, with some keys of config.json changed and its processor described."""
    with from_transformers._quiet(transformers):
        module.save_pretrained(folder)
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **facts}))
    if shown is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(shown))
    return folder


def cached(hub, repository, folder, ref="main", commit="a" * 40):
    """Put the files of a folder into a hub cache as if they had been fetched."""
    root = hub / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, root / "snapshots" / commit)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / ref).write_text(commit)


def first(output):
    return output if torch.is_tensor(output) else output[0]


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b/c", "no spaces/here", "owner/name@../x"])
def test_what_is_no_name_of_a_repository_is_said_to_be_none(name):
    with pytest.raises(
        UnknownModel, match=r"neither a folder nor the name of a repository on the hub: '.*owner/"
    ):
        from_transformers.open_transformers(name, weights="random")


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_what_is_not_cached_is_an_error_at_once_while_offline(weights):
    start = time.monotonic()
    with pytest.raises(
        NotCached, match=r"the files of hf:google/vit-base-patch16-224 are not on this .* or name a f"
    ):
        from_transformers.open_transformers("google/vit-base-patch16-224", weights=weights)
    assert time.monotonic() - start < 2


def test_an_offline_switch_is_respected(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NotCached, match="HF_HUB_OFFLINE is set"):
        from_transformers.open_transformers("google/vit-base-patch16-224")


def test_a_folder_without_a_config_is_an_error(tmp_path):
    with pytest.raises(MissingPath, match=r"no model in .*: it holds no config\.json"):
        from_transformers.open_transformers(str(tmp_path))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"model_type": "bert"},
            r"is a 'bert', which is no vision model that can be read here\. There are: beit, ",
        ),
        ({"model_type": "x", "auto_map": {}}, "brings code of its own, which is never run"),
        ({}, "is a 'model without a type'"),
        ({"architecture": "vit_tiny_patch16_224"}, r"is a model of timm: say local-dir:\S+$"),
    ],
)
def test_what_is_no_vision_model_is_said_to_be_none(tmp_path, facts, message):
    (tmp_path / "config.json").write_text(json.dumps(facts))
    with pytest.raises(UnknownModel, match=message):
        from_transformers.open_transformers(str(tmp_path), weights="random")


@pytest.mark.parametrize("text", ["{", "[1]", '{"model_type": "vit", "hidden_size": "wide"}'])
def test_a_config_that_cannot_be_read_is_an_error(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"cannot read .*config\.json"):
        from_transformers.open_transformers(str(tmp_path), weights="random")


def test_quantised_weights_are_refused(tmp_path):
    saved(tiny(), tmp_path, quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(WeightsError, match="are quantised"):
        from_transformers.open_transformers(str(tmp_path))


def test_images_of_other_channels_are_refused(tmp_path):
    saved(tiny(num_channels=4), tmp_path)
    with pytest.raises(UnknownModel, match="takes 4 channels; only models of RGB"):
        from_transformers.open_transformers(str(tmp_path))


def test_a_class_that_the_installed_version_lacks_is_said_to_be_missing(tmp_path):
    saved(tiny(), tmp_path, architectures=["ViTHugeForImageClassification"])
    with pytest.raises(
        UnknownModel, match=r"is a ViTHugeForImageClassification, which transformers \d.* does not"
    ):
        from_transformers.open_transformers(str(tmp_path))


@pytest.mark.parametrize("where", ["folder", "main", "revision"])
def test_a_model_is_read_from_a_folder_and_from_the_cache(tmp_path, hub, where):
    given, name = tiny(), str(tmp_path / "m")
    saved(given, tmp_path / "m", id2label={"0": "cat", "1": "dog"})
    if where != "folder":
        name = "someone/tiny" + ("@v1" if where == "revision" else "")
        cached(hub, "someone/tiny", tmp_path / "m", "v1" if where == "revision" else "main")
    bare = from_transformers.open_transformers(name)
    pixels = torch.rand(2, 3, 64, 64)
    assert torch.equal(bare.module(pixels)[0], given(pixels)[0])
    assert (bare.name, bare.output, bare.classes, bare.notes) == (f"hf:{name}", "logits", ("cat", "dog"), ())
    assert set(bare.module.state_dict()) == set(given.state_dict())
    assert not bare.module.training


@pytest.fixture
def online(monkeypatch, tmp_path):
    """A hub with one repository; hands back the folder of what was fetched and the list of what was asked."""
    monkeypatch.setattr(checkpoints, "require_hub", lambda *_, **__: None)
    asked, there, here = [], tmp_path / "there", tmp_path / "here"
    saved(tiny(), there)
    here.mkdir()

    def fetch(repository, *, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        for path in there.iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                shutil.copy(path, here)
        return str(here)

    monkeypatch.setattr(from_transformers, "snapshot_download", fetch)
    return there, here, asked


def test_only_what_is_needed_is_fetched(online):
    there, here, asked = online
    for file in ("README.md", "model.fp16.safetensors", "pytorch_model.bin", "tf_model.h5"):
        (there / file).write_text("x")
    from_transformers.open_transformers("someone/tiny@v1", weights="random")
    described = {"config.json", "preprocessor_config.json"}
    assert {path.name for path in here.iterdir()} == described
    from_transformers.open_transformers("someone/tiny")
    assert {path.name for path in here.iterdir()} == {*described, "model.safetensors"}
    assert [(repository, revision) for repository, revision, _ in asked] == [
        ("someone/tiny", "v1"), ("someone/tiny", None), ("someone/tiny", None),
    ]  # fmt: skip


def test_a_repository_without_a_config_is_no_model(online):
    (online[0] / "config.json").unlink()
    with pytest.raises(UnknownModel, match=r"hf:someone/tiny is no model of transformers: it holds no"):
        from_transformers.open_transformers("someone/tiny")


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (
            GatedRepoError,
            NotCached,
            r"hf:a/b is gated: accept its terms at https\S+/a/b, then `hf auth",
        ),
        (RepositoryNotFoundError, UnknownModel, "there is no hf:a/b: gone"),
        (OSError, NotCached, "hf:a/b could not be fetched: gone"),
    ],
)
def test_what_the_hub_refuses_is_a_typed_error(monkeypatch, online, fault, error, message):
    def refuse(*_, **__):
        raise fault("gone") if fault is OSError else fault("gone", response=Mock(headers={}, text=""))

    monkeypatch.setattr(from_transformers, "snapshot_download", refuse)
    with pytest.raises(error, match=message):
        from_transformers.open_transformers("a/b")


def test_random_weights_need_only_the_config_and_follow_the_seed(tmp_path):
    saved(tiny(), tmp_path, shown=None)
    (tmp_path / "model.safetensors").unlink()
    before = torch.random.get_rng_state()
    opened = [from_transformers.open_transformers(str(tmp_path), weights="random", seed=s) for s in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), before)
    heads = [bare.module.classifier.weight for bare in opened]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert opened[0].preprocessing.size == (64, 64)
    assert opened[0].notes[0].startswith("no preprocessor_config.json: images are squashed")
    with pytest.raises(
        WeightsError, match=r"looked for model\.safetensors and pytorch_model\.bin\. Say --weights"
    ):
        from_transformers.open_transformers(str(tmp_path))


@pytest.mark.parametrize("keys", ["as transformers writes them", "the module's own"])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_file_of_weights_may_have_old_or_own_keys(tmp_path, keys, suffix):
    given = tiny()
    saved(given, tmp_path)
    own = keys == "the module's own"
    state = given.state_dict() if own else load_file(tmp_path / "model.safetensors")
    assert (state.keys() == given.state_dict().keys()) == own
    path = tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    (tmp_path / "model.safetensors").unlink()
    bare = from_transformers.open_transformers(str(tmp_path), weights=str(path))
    for key, value in bare.module.state_dict().items():
        assert torch.equal(value, given.state_dict()[key]), key


def test_weights_in_pieces_are_put_together(tmp_path):
    given = tiny()
    with from_transformers._quiet(transformers):
        given.save_pretrained(tmp_path, max_shard_size="40KB")
    pieces = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(pieces) > 1
    bare = from_transformers.open_transformers(str(tmp_path))
    assert all(torch.equal(v, given.state_dict()[k]) for k, v in bare.module.state_dict().items())
    pieces[0].unlink()
    with pytest.raises(WeightsError, match="no weights of hf:"):
        from_transformers.open_transformers(str(tmp_path))


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, capfd):
    saved(tiny(), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["odd.weight"] = state.pop("classifier.weight")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(
        WeightsError,
        match=r"not fit ViTForImageClassification: 1 missing \(classifier\.weight\); 1 unexpected \(odd\.w",
    ):
        from_transformers.open_transformers(str(tmp_path))
    assert capfd.readouterr() == ("", "")  # no progress bars, no report of its own


def test_weights_of_other_shapes_are_refused_by_name(tmp_path):
    saved(tiny(num_labels=5), tmp_path)
    saved(tiny(), tmp_path / "two")
    file = str(tmp_path / "two" / "model.safetensors")
    with pytest.raises(
        WeightsError,
        match=r"2 other shapes \(classifier\.bias \(2,\) for \(5,\), classifier\.weight \(2, 32\) for",
    ):
        from_transformers.open_transformers(str(tmp_path), weights=file)


def test_a_pickle_that_wants_code_is_refused_and_not_run(tmp_path):
    saved(tiny(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    proof = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(proof), "w"))

    torch.save({"classifier.weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"refused .*pytorch_model\.bin.*was not executed"):
        from_transformers.open_transformers(str(tmp_path))
    assert not proof.exists()


def test_code_that_a_folder_brings_along_is_never_run(tmp_path):
    proof = tmp_path / "ran"
    saved(tiny(), tmp_path, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    (tmp_path / "evil.py").write_text(f"open({str(proof)!r}, 'w')\n")
    assert from_transformers.open_transformers(str(tmp_path)).output == "logits"
    assert not proof.exists()


@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_the_image_tower_is_taken_out_of_a_larger_model(tmp_path, family):
    config = getattr(transformers, f"{family}Config")
    facts = {"vision_config": SHAPE, "text_config": WORDS}
    with from_transformers._quiet(transformers):  # it finds the ids of WORDS too large
        given = getattr(transformers, f"{family}Model")(
            config(**facts, **({"projection_dim": 24} if family == "CLIP" else {}))
        ).eval()
    saved(given, tmp_path)
    bare = from_transformers.open_transformers(str(tmp_path))
    pixels = torch.rand(2, 3, 64, 64)
    found, expected = bare.module(pixels), given.get_image_features(pixels).pooler_output
    assert torch.allclose(
        found.image_embeds if family == "CLIP" else found.pooler_output, expected, atol=1e-6
    )
    assert (bare.output, bare.classes) == ("embedding", None)
    if family == "CLIP":
        assert first(found).shape == (2, 24)
    assert not any("text" in key for key in bare.module.state_dict())


def test_a_checkpoint_without_a_pooler_is_opened_without_one(tmp_path):
    torch.manual_seed(3)
    given = transformers.ViTModel(transformers.ViTConfig(**SHAPE), add_pooling_layer=False).eval()
    saved(given, tmp_path)
    bare = from_transformers.open_transformers(str(tmp_path))
    assert bare.notes == ("the checkpoint has no pooler, and so the model has none",)
    pixels = torch.rand(2, 3, 64, 64)
    assert torch.equal(first(bare.module(pixels)), first(given(pixels)))


def test_the_head_of_another_task_is_left_out_and_noted(tmp_path):
    torch.manual_seed(3)
    given = transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**SHAPE, encoder_stride=16)).eval()
    saved(given, tmp_path, id2label={"0": "cat", "1": "dog"})
    bare = from_transformers.open_transformers(str(tmp_path))
    assert (bare.output, bare.classes) == ("embedding", None)
    assert any("that only ViTForMaskedImageModeling has were left out" in note for note in bare.notes)


def test_attention_is_never_flash(tmp_path):
    saved(tiny(), tmp_path, attn_implementation="flash_attention_2", _attn_implementation="flash_attention_2")
    for weights in ("pretrained", "random"):
        bare = from_transformers.open_transformers(str(tmp_path), weights=weights)
        assert bare.module.config._attn_implementation == "sdpa"


def test_labels_that_nobody_named_are_no_names():
    assert from_transformers.classes_of({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}) is None
    assert from_transformers.classes_of({}) is None
    labels = {str(number): f"kind {number}" for number in (10, 9, 2, *range(2), *range(3, 9))}
    assert from_transformers.classes_of({"id2label": labels}) == tuple(f"kind {n}" for n in range(11))


def test_the_cache_is_listed_and_nothing_else(tmp_path, hub):
    assert from_transformers.names() == []
    cached(hub, "someone/tiny", saved(tiny(), tmp_path / "m"))
    cached(hub, "someone/old", tmp_path / "m", ref="v1")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    cached(hub, "someone/bert", tmp_path / "bert")
    (tmp_path / "bert" / "config.json").write_text("no json")
    cached(hub, "someone/broken", tmp_path / "bert")
    assert find("hf:") == ["hf:someone/old@v1", "hf:someone/tiny"]
    assert from_transformers.open_transformers("someone/old@v1").name == "hf:someone/old@v1"


def test_without_the_library_the_list_is_empty_and_opening_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert from_transformers.names() == []
    with pytest.raises(MissingExtra, match=r"hf:a/b needs transformers.*pip install 'vitscope\[hf\]'"):
        from_transformers.open_transformers("a/b")


def test_every_model_of_the_zoo_can_be_saved_and_opened(transformers_models, tmp_path):
    assert len(transformers_models) >= 10
    for name, build in transformers_models.items():
        given, (rows, columns) = build()
        pixels = torch.rand(2, 3, rows, columns)
        before = dict(given.named_modules()).keys()
        bare = from_transformers.open_transformers(str(saved(given, tmp_path / name, shown=None)))
        assert type(bare.module) is type(given)
        assert dict(bare.module.named_modules()).keys() == before
        assert bare.preprocessing.size == ((rows, columns) if name != "resnet" else (224, 224))
        with torch.no_grad():
            ours, theirs = first(bare.module(pixels)), first(given(pixels))
        assert torch.equal(ours, theirs), name
        assert bare.output == ("logits" if "Classification" in type(given).__name__ else "embedding")
        assert sum(len(module._forward_hooks) for module in bare.module.modules()) == 0
        checkpoints.check_finite(bare.module, name)
