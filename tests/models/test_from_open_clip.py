"""open_clip's towers: names, weights, preprocessing, words, and errors; on tiny configurations of its own."""

import json
import socket
import subprocess
import sys
import time
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from open_clip import factory, pretrained
from open_clip.model import CLIP
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from vitscope.data.decode import view
from vitscope.errors import BadValue, MissingExtra, MissingPath, NotCached, UnknownModel, WeightsError
from vitscope.models import checkpoints, find, from_open_clip

VISION = {"image_size": 64, "layers": 2, "width": 32, "head_width": 8, "patch_size": 16}
TEXT = {"context_length": 12, "width": 24, "heads": 2, "layers": 2}
TINY = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
PUBLISHED = {
    "hf_hub": "someone/tiny/",
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
    "interpolation": "bilinear",
    "resize_mode": "squash",
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """Three architectures more, one with two tags; no network, and an empty cache, which is handed back."""

    def refuse(*_, **__):
        raise OSError("no network in tests")

    for name, text in (
        ("Tiny-ViT", TEXT),
        ("Tiny-hub-tokenizer", {**TEXT, "hf_tokenizer_name": "someone/words"}),
        ("Tiny-other-text", {"hf_model_name": "roberta-base"}),
    ):
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, {**TINY, "text_cfg": text})
    tags = {"first": PUBLISHED, "second_tag": {**PUBLISHED, "quick_gelu": True, "resize_mode": "shortest"}}
    monkeypatch.setitem(pretrained._PRETRAINED, "Tiny-ViT", tags)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def whole(seed: int = 3, **changes) -> CLIP:
    torch.manual_seed(seed)
    return CLIP(**{**TINY, **changes}).eval()


def cache(folder, repository, file, state):
    root = folder / f"models--{repository.replace('/', '--')}"
    (root / "snapshots" / "a").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a")
    path = root / "snapshots" / "a" / file
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)


def test_an_unknown_name_gives_near_names():
    with pytest.raises(UnknownModel, match=r"no open_clip model 'ViT-B-33'\. Nearest: .*'ViT-B-32'.*List"):
        from_open_clip.open_image("ViT-B-33/openai")
    with pytest.raises(UnknownModel, match=r"no open_clip model '\.\.'"):
        from_open_clip.open_image("../../etc/passwd", weights="random")


def test_a_bad_tag_lists_the_tags():
    with pytest.raises(
        UnknownModel,
        match=r"no tag 'frist' of open_clip:Tiny-ViT\. Nearest: 'first'\. There are: first, second",
    ):
        from_open_clip.open_image("Tiny-ViT/frist")
    with pytest.raises(UnknownModel, match=r"There are: none\."):
        from_open_clip.open_image("Tiny-other-text/x", weights="random")


def test_an_architecture_without_published_weights_says_so():
    with pytest.raises(WeightsError, match="publishes no weights for Tiny-other-text: say --weights random"):
        from_open_clip.open_image("Tiny-other-text")


@pytest.mark.parametrize("name", ["ViT-B-32/openai", "ViTamin-S/datacomp1b", "ViT-L-14"])
def test_pretrained_weights_while_offline_are_an_error_at_once(name):
    start = time.monotonic()
    with pytest.raises(NotCached, match=r"open_clip:ViT.*not on this machine, and \S+ does not answer"):
        from_open_clip.open_image(name)
    assert time.monotonic() - start < 2


def test_random_weights_follow_the_seed_and_leave_the_generator_alone():
    before = torch.random.get_rng_state()
    towers = [from_open_clip.open_image("Tiny-ViT", weights="random", seed=seed).module for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), before)
    kernels = [tower.conv1.weight for tower in towers]
    assert torch.equal(kernels[0], kernels[1])
    assert not torch.equal(kernels[0], kernels[2])
    assert not towers[0].training


def test_the_facts_of_the_library_are_taken_over():
    bare = from_open_clip.open_image("Tiny-ViT/second-tag", weights="random")
    assert (bare.name, bare.output, bare.classes) == ("open_clip:Tiny-ViT/second_tag", "embedding", None)
    facts = bare.preprocessing
    assert (facts.size, facts.resize, facts.interpolation) == ((64, 64), 64, "bilinear")
    assert (facts.mean, facts.std) == (PUBLISHED["mean"], PUBLISHED["std"])
    squashed = from_open_clip.open_image("Tiny-ViT/first", weights="random").preprocessing
    assert squashed.resize is None


@pytest.mark.parametrize("tag", ["first", "second_tag"])
def test_the_preprocessing_is_that_of_the_librarys_own_transform(tag):
    facts = from_open_clip.open_image(f"Tiny-ViT/{tag}", weights="random").preprocessing
    published = pretrained.get_pretrained_cfg("Tiny-ViT", tag)
    keys = ("mean", "std", "interpolation", "resize_mode")
    theirs = image_transform_v2(
        PreprocessCfg(size=64, **{key: published[key] for key in keys}), is_train=False
    )
    image = Image.linear_gradient("L").convert("RGB").resize((130, 90))
    pixels = torch.from_numpy(view(image, facts).copy()).movedim(-1, 0)[None] / 255
    assert torch.allclose(facts.normalise(pixels)[0], theirs(image), atol=1e-6)


def test_a_tag_decides_the_activation():
    """OpenAI's weights want QuickGELU, though the architecture of the same name says GELU."""
    given = whole(quick_gelu=True)
    pixels = torch.rand(1, 3, 64, 64)
    for name, equal in (("Tiny-ViT/second_tag", True), ("Tiny-ViT/first", False)):
        module = from_open_clip.open_image(name, weights="random").module
        module.load_state_dict(given.visual.state_dict())
        assert torch.allclose(module(pixels), given.visual(pixels), atol=1e-6) == equal


def test_no_tag_is_said_where_it_matters(monkeypatch):
    assert from_open_clip.open_image("Tiny-ViT", weights="random").notes == ()
    tags = {"only": {**PUBLISHED, "quick_gelu": True}}
    monkeypatch.setitem(pretrained._PRETRAINED, "Tiny-ViT", tags)
    assert (
        "want QuickGELU: name their tag" in from_open_clip.open_image("Tiny-ViT", weights="random").notes[0]
    )


@pytest.mark.parametrize("keys", ["whole", "tower", "module."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_may_hold_the_tower_or_the_whole_clip(tmp_path, keys, suffix):
    given = whole()
    state = given.visual.state_dict() if keys == "tower" else given.state_dict()
    if keys == "module.":
        state = {f"module.{key}": value for key, value in state.items()}
    path = tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    bare = from_open_clip.open_image("Tiny-ViT", weights=str(path))
    pixels = torch.rand(2, 3, 64, 64)
    assert torch.allclose(bare.module(pixels), given.encode_image(pixels), atol=1e-6)
    assert bare.name == "open_clip:Tiny-ViT"
    assert set(bare.module.state_dict()) == set(given.visual.state_dict())


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    state = whole().visual.state_dict()
    state["odd"] = state.pop("proj")
    save_file({f"visual.{key}": value for key, value in state.items()}, tmp_path / "w.safetensors")
    with pytest.raises(
        WeightsError,
        match=r"w\.safetensors does not fit VisionTransformer: 1 missing \(proj\); 1 unexpected \(odd\)",
    ):
        from_open_clip.open_image("Tiny-ViT", weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(MissingPath, match=r"no weights file .*none\.pt"):
        from_open_clip.open_image("Tiny-ViT", weights=str(tmp_path / "none.pt"))


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_cached_weights_need_no_network(tiny, file):
    given = whole()
    cache(tiny, "someone/tiny", file, given.state_dict())
    bare = from_open_clip.open_image("Tiny-ViT")
    assert bare.name == "open_clip:Tiny-ViT/first"  # the first that the library lists
    assert torch.equal(bare.module.conv1.weight, given.visual.conv1.weight)
    text = from_open_clip.open_text("Tiny-ViT/first")
    assert torch.equal(text.module.token_embedding.weight, given.token_embedding.weight)


WORDS = ["a photo of a dog", "a cat", "Wheels, seen from the side!"]


@pytest.mark.parametrize("custom", [False, True])
def test_words_are_embedded_as_the_whole_clip_embeds_them(tmp_path, custom):
    given = whole()
    state = given.state_dict()
    if custom:  # as CLIPs with a text tower of their own write it
        state = {
            f"text.{key}" if key.startswith(from_open_clip.TEXT_ROOTS) else key: value
            for key, value in state.items()
        }
    save_file(state, tmp_path / "w.safetensors")
    text = from_open_clip.open_text("Tiny-ViT", weights=str(tmp_path / "w.safetensors"))
    expected = given.encode_text(text.tokenize(WORDS), normalize=True)
    assert torch.allclose(text.embed(WORDS), expected, atol=1e-6)


def test_embeddings_of_words_are_directions():
    text = from_open_clip.open_text("Tiny-ViT", weights="random", seed=1)
    found = text.embed(WORDS)
    assert torch.allclose(found.norm(dim=-1), torch.ones(3))
    assert torch.equal(found, text.embed(WORDS))
    assert torch.allclose(found, torch.cat([text.embed([word]) for word in WORDS]), atol=1e-6)
    image = from_open_clip.open_image("Tiny-ViT", weights="random")
    seen = torch.nn.functional.normalize(image.module(torch.rand(2, 3, 64, 64)), dim=-1)
    cosines = seen @ found.T
    assert cosines.shape == (2, 3)
    assert cosines.abs().max() <= 1 + 1e-6
    assert not torch.allclose(found[0], found[1])


def test_long_texts_are_cut_and_not_refused():
    text = from_open_clip.open_text("Tiny-ViT", weights="random")
    assert text.tokenize(["word " * 50]).shape == (1, TEXT["context_length"])
    assert text.embed(["word " * 50]).isfinite().all()


def test_a_tokenizer_on_the_hub_is_said_to_be_there():
    start = time.monotonic()
    with pytest.raises(
        NotCached,
        match=r"tokenizer's files of open_clip:Tiny-hub-tokenizer \(someone/words\) are not.*OpenAI's voc",
    ):
        from_open_clip.open_text("Tiny-hub-tokenizer", weights="random")
    assert time.monotonic() - start < 2
    assert (
        from_open_clip.open_image("Tiny-hub-tokenizer", weights="random")
        .module(torch.rand(1, 3, 64, 64))
        .shape
    )


def test_a_cached_tokenizer_needs_no_network(tiny):
    words = {"[PAD]": 0, "a": 1, "dog": 2, "[UNK]": 3}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    folder = tiny / "models--someone--words" / "snapshots" / "a"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text("a")
    text = from_open_clip.open_text("Tiny-hub-tokenizer", weights="random")
    assert text.tokenize(["a dog"]).tolist() == [[1, 2, *[0] * (TEXT["context_length"] - 2)]]
    assert text.embed(["a dog"]).shape == (1, 16)


@pytest.mark.parametrize("safe", [True, False])
def test_weights_are_fetched_safe_ones_first(monkeypatch, tmp_path, safe):
    given, asked = whole(), []
    torch.save(given.state_dict(), tmp_path / "w.bin")
    save_file(given.state_dict(), tmp_path / "w.safetensors")

    def fetch(repository, file):
        asked.append((repository, file))
        if file.endswith(".safetensors") and not safe:
            raise EntryNotFoundError("none")
        return str(tmp_path / ("w.safetensors" if safe else "w.bin"))

    monkeypatch.setattr(checkpoints, "require_hub", lambda *_, **__: None)
    monkeypatch.setattr(from_open_clip, "hf_hub_download", fetch)
    bare = from_open_clip.open_image("Tiny-ViT/first")
    assert torch.equal(bare.module.proj, given.visual.proj)
    files = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"][: 1 if safe else 2]
    assert asked == [("someone/tiny", file) for file in files]
    (tmp_path / "w.bin").unlink()
    monkeypatch.setattr(from_open_clip, "hf_hub_download", Mock(side_effect=OSError("gone")))
    with pytest.raises(NotCached, match="the weights of open_clip:Tiny-ViT/first could not be fetched: gone"):
        from_open_clip.open_image("Tiny-ViT/first")


def test_a_text_tower_of_another_library_is_refused():
    with pytest.raises(BadValue, match=r"text tower of open_clip:Tiny-other-text is roberta-base of transf"):
        from_open_clip.open_text("Tiny-other-text", weights="random")


def test_names_are_listed_with_their_tags():
    assert {"open_clip:ViT-B-32", "open_clip:ViT-B-32/openai"} <= set(find("open_clip:vit-b-32*"))
    assert find("Tiny-ViT") == [
        "open_clip:Tiny-ViT", "open_clip:Tiny-ViT/first", "open_clip:Tiny-ViT/second_tag",
    ]  # fmt: skip


def test_without_the_library_the_list_is_empty_and_opening_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert from_open_clip.names() == []
    for opened in (from_open_clip.open_image, from_open_clip.open_text):
        with pytest.raises(
            MissingExtra, match=r"open_clip:ViT-B-32 needs open_clip_torch.*pip install 'vitscope\[clip\]'"
        ):
            opened("ViT-B-32", weights="random")


def test_importing_the_adapter_imports_no_open_clip():
    code = "import sys, vitscope.models.from_open_clip; raise SystemExit('open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_tower_of_the_zoo_gives_vectors(open_clip_towers):
    assert len(open_clip_towers) >= 6
    for name, build in open_clip_towers.items():
        module, (rows, columns) = build()
        with torch.no_grad():
            found = module(torch.rand(2, 3, rows, columns))
        assert (found[0] if isinstance(found, tuple) else found).shape == (2, 16), name
        assert not module.training
        facts = from_open_clip.preprocessing_of(module, from_open_clip._preprocess_facts({}))
        assert facts.size == (rows, columns)
        assert json.dumps(facts.describe())
