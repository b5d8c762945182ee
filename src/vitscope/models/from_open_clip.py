"""open_clip's image towers, by names such as `open_clip:ViT-B-32/openai`; text towers to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from jaxtyping import Float
from torch import Tensor, nn

from vitscope import extras
from vitscope.errors import BadValue, NotCached, UnknownModel, WeightsError, suggestion
from vitscope.models import checkpoints
from vitscope.models.vision_model import Bare, Preprocessing

TEXT_ROOTS = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
"""How a text tower's weights begin where a CLIP does not gather them under "text." (open_clip.model)."""


@dataclass(frozen=True)
class _Asked:
    """What a name means: the architecture's own config, and the facts published with a tag's weights."""

    arch: str
    tag: str
    config: Mapping[str, Any]
    published: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"open_clip:{self.arch}" + (f"/{self.tag}" if self.tag else "")

    @property
    def quick_gelu(self) -> bool:
        """OpenAI's activation. Some tags were trained with it though their architecture says GELU."""
        return bool(self.config.get("quick_gelu") or (self.tag and self.published.get("quick_gelu")))


@dataclass(frozen=True)
class TextTower:
    """The half of a CLIP that reads words.

    Attributes:
        name: the full name, such as "open_clip:ViT-B-32/openai".
        module: takes "text token" integers, in eval mode, float32, on the CPU.
        tokenize: from texts to what the module takes; long texts are cut.
    """

    name: str
    module: nn.Module
    tokenize: Callable[[list[str]], Tensor]

    def embed(self, texts: list[str]) -> Float[Tensor, "text unit"]:
        """One direction for each text, of length 1, in the space of the image tower's embeddings.

        Example:
            >>> open_text("ViT-B-32", weights="random").embed(["a dog"]).shape
            torch.Size([1, 512])
        """
        device = next(self.module.parameters()).device
        with torch.no_grad():
            found = self.module(self.tokenize(texts).to(device))
        pooled: Tensor = found[0] if isinstance(found, tuple) else found  # CoCa's also hands out its tokens
        return nn.functional.normalize(pooled, dim=-1)


def names() -> list[str]:
    """Every architecture, and with its tags every one that has published weights; none without open_clip."""
    if not extras.is_installed("clip"):
        return []
    library = extras.require("clip", wanted="open_clip:")
    return sorted({*library.list_models(), *("/".join(pair) for pair in library.list_pretrained())})


def open_image(name: str, *, weights: str = "pretrained", seed: int = 0) -> Bare:
    """The image tower of an open_clip model; its output is an embedding, not of length 1.

    Args:
        name: "ViT-B-32", or with the tag of its weights "ViT-B-32/openai". Pretrained weights without a tag
            are the first that the library lists.
        weights: "pretrained", "random" or a file of the tower's or of the whole CLIP's weights.
        seed: of random weights.

    Raises:
        MissingExtra: open_clip is not installed.
        UnknownModel: no such architecture or tag; the nearest, or all tags, are named.
        NotCached: pretrained weights are not on this machine and it is offline.
        WeightsError: the weights cannot be read, do not fit or do not exist.
    """
    asked = _asked(name, weights=weights)
    from open_clip.model import _build_vision_tower  # CLIP itself would build the text tower too

    file = _weights_file(asked, weights=weights)  # first: what is not there is said before time is spent
    # the towers of timm would otherwise fetch their ImageNet weights first
    vision = {**asked.config["vision_cfg"], "timm_model_pretrained": False}
    module: nn.Module = checkpoints.seeded(
        lambda: _build_vision_tower(asked.config["embed_dim"], vision, asked.quick_gelu), seed=seed
    )
    if file:
        checkpoints.fill_from(module, image_part(checkpoints.read_weights(file)), origin=str(file))
    facts = _preprocess_facts(asked.published)
    return Bare(
        module.eval(),
        asked.name,
        preprocessing_of(module, facts),
        notes=_notes(module, asked),
        output="embedding",
    )


def open_text(name: str, *, weights: str = "pretrained", seed: int = 0) -> TextTower:
    """The text tower of an open_clip model; arguments and errors as of `open_image`.

    Raises:
        BadValue: its text tower is a model of another library.
        NotCached: its tokenizer lives on the Hugging Face hub, is not on this machine, and it is offline.
    """
    asked = _asked(name, weights=weights)
    text = dict(asked.config["text_cfg"])
    if text.get("hf_model_name"):
        raise BadValue(
            f"the text tower of {asked.name} is {text['hf_model_name']} of transformers, and only open_clip's"
            " own are read. ViT-B-32 and most others have one"
        )
    from open_clip.model import _build_text_tower

    file = _weights_file(asked, weights=weights)
    tokenize = _tokenizer(text, asked.name)
    module: nn.Module = checkpoints.seeded(
        lambda: _build_text_tower(asked.config["embed_dim"], text, asked.quick_gelu), seed=seed
    )
    if file:
        checkpoints.fill_from(module, text_part(checkpoints.read_weights(file)), origin=str(file))
    return TextTower(asked.name, module.eval(), tokenize)


def image_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower's weights among those of a whole CLIP; those of a tower alone stay as they are."""
    bare = _bare_keys(state)
    inside = {key.removeprefix("visual."): value for key, value in bare.items() if key.startswith("visual.")}
    return inside or bare


def text_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower's weights among those of a whole CLIP; those of a tower alone stay as they are."""
    bare = _bare_keys(state)
    inside = {key.removeprefix("text."): value for key, value in bare.items() if key.startswith("text.")}
    if inside or not any(key.startswith("visual.") for key in bare):
        return inside or bare
    return {key: value for key, value in bare.items() if key.startswith(TEXT_ROOTS)}


def preprocessing_of(module: nn.Module, facts: Mapping[str, Any]) -> Preprocessing:
    """The facts behind open_clip's own evaluation transform (open_clip.transform.image_transform)."""
    rows, columns = _pair(module.image_size)
    return Preprocessing(
        size=(rows, columns),
        resize=None if facts["resize_mode"] == "squash" else max(rows, columns),
        interpolation="bilinear" if facts["interpolation"] == "bilinear" else "bicubic",
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
    )


def _asked(name: str, *, weights: str) -> _Asked:
    library = extras.require("clip", wanted=f"open_clip:{name}")
    arch, _, tag = name.partition("/")
    known = library.list_models()
    if arch not in known:
        raise UnknownModel(
            f"no open_clip model {arch!r}.{suggestion(arch, known)} List them: vitscope models open_clip:"
        )
    tags = library.list_pretrained_tags_by_model(arch)
    tag = tag.lower().replace("-", "_")  # as open_clip reads tags
    if tag and tag not in tags:
        raise UnknownModel(
            f"no tag {tag!r} of open_clip:{arch}.{suggestion(tag, tags)}"
            f" There are: {', '.join(tags) or 'none'}."
        )
    if weights == "pretrained" and not tags:
        raise WeightsError(
            f"open_clip publishes no weights for {arch}: say --weights random or a file."
            f"{suggestion(arch, {pair[0] for pair in library.list_pretrained()})}"
        )
    tag = tag or (tags[0] if weights == "pretrained" else "")
    published = library.get_pretrained_cfg(arch, tag or tags[0]) if tags else {}
    return _Asked(arch, tag, library.get_model_config(arch), published)


def _preprocess_facts(published: Mapping[str, Any]) -> dict[str, Any]:
    from open_clip.transform import PreprocessCfg

    facts = asdict(PreprocessCfg())
    return {key: published.get(key) or default for key, default in facts.items()}


def _notes(module: nn.Module, asked: _Asked) -> tuple[str, ...]:
    notes = []
    rows, columns = _pair(module.image_size)
    if rows != columns and _preprocess_facts(asked.published)["resize_mode"] != "squash":
        notes.append(
            f"open_clip resizes so that {rows} x {columns} is covered; here the shorter side decides"
        )
    vision = asked.config["vision_cfg"]
    own_vit = isinstance(vision.get("layers", 12), int) and "timm_model_name" not in vision
    if own_vit and not asked.tag and asked.published.get("quick_gelu") and not asked.quick_gelu:
        notes.append(
            f"built with GELU; some published weights of {asked.arch} want QuickGELU: name their tag"
        )
    return tuple(notes)


def _weights_file(asked: _Asked, *, weights: str) -> Path | None:
    """The given file, or that of published weights: from the hub's cache, or fetched, safe ones first."""
    if weights != "pretrained":
        return None if weights == "random" else Path(weights)
    repository, _, file = str(asked.published["hf_hub"]).rpartition("/")
    file = file or "open_clip_pytorch_model.bin"  # open_clip.constants.HF_WEIGHTS_NAME, and its safe twin:
    safe = (
        "open_clip_model.safetensors" if file.startswith("open_clip_") else f"{Path(file).stem}.safetensors"
    )
    for candidate in (safe, file):
        path = try_to_load_from_cache(repository, candidate)
        if isinstance(path, str):
            return Path(path)
    checkpoints.require_hub(asked.name)
    try:
        try:
            return Path(hf_hub_download(repository, safe))
        except EntryNotFoundError:
            return Path(hf_hub_download(repository, file))
    except OSError as error:
        raise NotCached(f"the weights of {asked.name} could not be fetched: {error}") from error


def _tokenizer(text: Mapping[str, Any], name: str) -> Callable[[list[str]], Tensor]:
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

    length = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
    options = dict(text.get("tokenizer_kwargs") or {})
    repository = text.get("hf_tokenizer_name")
    if not repository:  # the vocabulary that open_clip brings along
        own: Callable[[list[str]], Tensor] = SimpleTokenizer(context_length=length, **options)
        return own
    extras.require("hf", wanted=f"the tokenizer of {name}")
    cached = try_to_load_from_cache(repository, "tokenizer_config.json")
    on_disk = isinstance(cached, str)
    if not on_disk:
        instead = "or take a model with OpenAI's vocabulary, such as ViT-B-32"
        checkpoints.require_hub(f"{name} ({repository})", noun="tokenizer's files", instead=instead)
    try:
        hosted: Callable[[list[str]], Tensor] = HFTokenizer(
            str(Path(str(cached)).parent) if on_disk else repository,  # asking the hub fails slowly offline
            context_length=length,
            tokenizer_mode=text.get("tokenizer_mode"),
            local_files_only=on_disk,
            **options,
        )
        return hosted
    except (OSError, ValueError) as error:
        raise NotCached(f"the tokenizer of {name} ({repository}) cannot be had: {error}") from error


def _bare_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the "module." that open_clip's own training script writes when it runs on several GPUs."""
    wrapped = all(key.startswith("module.") for key in state)
    return {key.removeprefix("module.") if wrapped else key: value for key, value in state.items()}


def _pair(size: Any) -> tuple[int, int]:
    rows, columns = size if isinstance(size, (tuple, list)) else (size, size)
    return int(rows), int(columns)
