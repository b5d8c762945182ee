"""Vision models of transformers, by names such as `hf:google/vit-base-patch16-224` and `hf:FOLDER`."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import (
    CacheNotFound,
    constants,
    scan_cache_dir,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from torch import Tensor, nn

from vitscope import extras
from vitscope.errors import MissingPath, NotCached, UnknownModel, WeightsError
from vitscope.models import checkpoints, image_processors
from vitscope.models.vision_model import Bare

VISION = {
    "beit": "BeitModel",
    "bit": "BitModel",
    "clip": "CLIPVisionModelWithProjection",
    "clip_vision_model": "CLIPVisionModel",
    "convnext": "ConvNextModel",
    "convnextv2": "ConvNextV2Model",
    "cvt": "CvtModel",
    "data2vec-vision": "Data2VecVisionModel",
    "deit": "DeiTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_convnext": "DINOv3ConvNextModel",
    "dinov3_vit": "DINOv3ViTModel",
    "focalnet": "FocalNetModel",
    "hiera": "HieraModel",
    "ijepa": "IJepaModel",
    "levit": "LevitModel",
    "mobilenet_v1": "MobileNetV1Model",
    "mobilenet_v2": "MobileNetV2Model",
    "poolformer": "PoolFormerModel",
    "pvt": "PvtModel",
    "pvt_v2": "PvtV2Model",
    "regnet": "RegNetModel",
    "resnet": "ResNetModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "swin": "SwinModel",
    "swinv2": "Swinv2Model",
    "vit": "ViTModel",
    "vit_msn": "ViTMSNModel",
}
"""The model types that are read -> the class without a classifier, or the image tower."""

COMPOSITE = ("clip", "siglip")
"""Types whose config.json describes an image tower among others."""
TOWER_KEYS = ("vision_model.", "visual_projection.")
"""How the weights of such an image tower begin."""

CLASSIFIER = re.compile(r"\w+ForImageClassification(WithTeacher)?")
DESCRIPTIONS = ["config.json", "preprocessor_config.json", "processor_config.json"]
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What weights are called, in the order of preference; those cut in pieces have an index of the same name."""


@dataclass(frozen=True)
class _Plan:
    """Which class to build, with which config; `asked` is the class that the checkpoint was saved from."""

    name: str
    kind: Any
    config: Any
    asked: str
    is_classifier: bool
    is_tower: bool
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        module: nn.Module = self.kind(self.config, **self.options)
        return module


def names() -> list[str]:
    """The vision models in the hub's cache on this machine; none without transformers. No network."""
    if not extras.is_installed("hf"):
        return []
    try:
        cached = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    found = []
    for repository in cached:
        for revision in repository.revisions if repository.repo_type == "model" else ():
            if _model_type(revision.snapshot_path) in VISION:
                refs = revision.refs or {revision.commit_hash}
                found += [repository.repo_id + ("" if ref == "main" else f"@{ref}") for ref in refs]
    return sorted(found)


def open_transformers(name: str, *, weights: str = "pretrained", seed: int = 0) -> Bare:
    """A vision model of transformers: with its classifier where the checkpoint has one, else without.

    Of CLIP and SigLIP it is the image tower. What has been fetched once is used as it is; the hub is asked
    only for what is not on this machine. Code that a repository brings along is never run.

    Args:
        name: "owner/name", "owner/name@revision", or a folder with a `config.json`.
        weights: "pretrained", "random" (only config.json is needed) or a file, as transformers writes it.
        seed: of random weights.

    Raises:
        MissingExtra: transformers is not installed.
        UnknownModel: no such repository, or no vision model that can be read.
        MissingPath: the folder holds no config.json.
        NotCached: it is not on this machine and it is offline, or gated.
        WeightsError: the weights cannot be read, want to run code, do not fit or do not exist.
    """
    library = extras.require("hf", wanted=f"hf:{name}")
    folder = _folder(name, weights=weights)
    facts = image_processors.read_json(folder / "config.json") or {}
    notes: tuple[str, ...] = ()
    with _quiet(library):
        plan = _plan(library, facts, name=name)
        if weights == "random":
            module = checkpoints.seeded(plan.build, seed=seed)
        else:
            files = _weights_files(folder) if weights == "pretrained" else [Path(weights)]
            module, notes = _loaded(plan, files, folder)
        shown = image_processors.read_facts(folder, library)
    preprocessing, more = image_processors.preprocessing_of(shown, _image_size(plan.config))
    return Bare(
        module.eval(),
        f"hf:{name}",
        preprocessing,
        classes_of(facts) if plan.is_classifier else None,
        (*notes, *more),
        "logits" if plan.is_classifier else "embedding",
    )


def classes_of(facts: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names of the logits, from `id2label`; None where it holds only LABEL_0, LABEL_1, ..."""
    labels = facts.get("id2label") or {}
    ordered = [str(labels[key]) for key in sorted(labels, key=int)]
    invented = [f"LABEL_{number}" for number in range(len(ordered))]
    return tuple(ordered) if ordered and ordered != invented else None


def _plan(library: Any, facts: Mapping[str, Any], *, name: str) -> _Plan:
    from huggingface_hub.errors import StrictDataclassError  # of newer hubs, which transformers brings

    kind_of = str(facts.get("model_type", ""))
    if kind_of not in VISION:
        raise UnknownModel(_not_a_vision_model(facts, name))
    asked = str((facts.get("architectures") or [""])[0])
    is_classifier = CLASSIFIER.fullmatch(asked) is not None
    chosen = asked if is_classifier or asked == f"{VISION[kind_of]}WithProjection" else VISION[kind_of]
    kind = getattr(library, chosen, None)
    if kind is None:
        raise UnknownModel(f"hf:{name} is a {chosen}, which transformers {library.__version__} does not have")
    if facts.get("quantization_config"):
        raise WeightsError(f"the weights of hf:{name} are quantised; only plain ones are read")
    is_tower = kind_of in COMPOSITE and not is_classifier
    try:
        config = kind.config_class.from_dict(_own_facts(facts, is_tower=is_tower))
    except (StrictDataclassError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"cannot read the config.json of hf:{name}: {error}") from error
    if (channels := getattr(getattr(config, "vision_config", config), "num_channels", 3)) != 3:
        raise UnknownModel(f"hf:{name} takes {channels} channels; only models of RGB images are read")
    # a checkpoint may name an implementation that reads no patterns, or needs a GPU
    config._attn_implementation = "sdpa" if kind._supports_sdpa else "eager"
    return _Plan(name, kind, config, asked, is_classifier, is_tower)


def _own_facts(facts: Mapping[str, Any], *, is_tower: bool) -> dict[str, Any]:
    own = dict(facts)
    if is_tower:
        own = dict(facts.get("vision_config") or facts.get("vision_config_dict") or {})
        if "projection_dim" in facts:  # CLIPModel believes the outer one
            own["projection_dim"] = facts["projection_dim"]
    switches = ("auto_map", "output_attentions", "output_hidden_states", "attn_implementation")
    return {key: value for key, value in own.items() if key.lstrip("_") not in switches}


def _not_a_vision_model(facts: Mapping[str, Any], name: str) -> str:
    if "model_type" not in facts and "architecture" in facts:
        prefix = "local-dir" if _as_folder(name).is_dir() else "hf-hub"
        return f"hf:{name} is a model of timm: say {prefix}:{name}"
    code = " It brings code of its own, which is never run." if "auto_map" in facts else ""
    return (
        f"hf:{name} is a {facts.get('model_type') or 'model without a type'!r}, which is no vision model that"
        f" can be read here.{code} There are: {', '.join(VISION)}."
    )


def _loaded(plan: _Plan, files: list[Path], folder: Path) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with the weights of these files, strictly, and notes."""
    if not files:
        raise WeightsError(
            f"no weights of hf:{plan.name} in {folder}: looked for {' and '.join(WEIGHTS)}."
            " Say --weights random or a file"
        )
    state: dict[str, Tensor] = {}
    for file in files:
        state.update(checkpoints.read_weights(file))
    if plan.is_tower and any(key.startswith(TOWER_KEYS) for key in state):
        state = {key: value for key, value in state.items() if key.startswith(TOWER_KEYS)}
    origin = ", ".join(map(str, files))
    with torch.device("meta"):
        own = plan.build().state_dict()
    if own.keys() == state.keys():  # saved from the module itself: nothing to rename
        module = checkpoints.seeded(plan.build, seed=0)
        checkpoints.fill_from(module, state, origin=origin)
        return module, ()
    return _renamed(plan, state, origin)


def _renamed(plan: _Plan, state: dict[str, Tensor], origin: str) -> tuple[nn.Module, tuple[str, ...]]:
    """By transformers' own loader: it knows older names of weights, but only warns of what does not fit."""
    try:
        module, report = checkpoints.seeded(lambda: _from_state(plan, state), seed=0)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"{origin} does not fit {plan.kind.__name__}: {error}") from error
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    with_pooler = inspect.signature(plan.kind).parameters.get("add_pooling_layer")
    if missing and with_pooler and not plan.options and all("pooler" in key.split(".") for key in missing):
        poolless = replace(plan, options={"add_pooling_layer": False})
        module, notes = _renamed(poolless, state, origin)
        return module, (*notes, "the checkpoint has no pooler, and so the model has none")
    other_head = plan.asked not in ("", plan.kind.__name__) and not plan.is_tower
    if missing or (unexpected and not other_head):
        raise checkpoints.misfit(module, origin=origin, missing=missing, unexpected=unexpected)
    if odd := sorted(report["mismatched_keys"]):
        shapes = ", ".join(f"{key} {tuple(given)} for {tuple(own)}" for key, given, own in odd[:10])
        raise WeightsError(f"{origin} does not fit {plan.kind.__name__}: {len(odd)} other shapes ({shapes})")
    left = f"{len(unexpected)} weights that only {plan.asked} has were left out" if unexpected else ""
    return module, (left,) if left else ()


def _from_state(plan: _Plan, state: dict[str, Tensor]) -> tuple[nn.Module, Any]:
    module, report = plan.kind.from_pretrained(
        None,
        config=plan.config,
        state_dict=dict(state),
        dtype=torch.float32,
        attn_implementation=plan.config._attn_implementation,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **plan.options,
    )
    return module, report


def _weights_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights; none where one of them is not there."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = image_processors.read_json(folder / f"{name}.index.json")
        pieces = sorted({Path(piece).name for piece in (index or {}).get("weight_map", {}).values()})
        if pieces and all((folder / piece).is_file() for piece in pieces):
            return [folder / piece for piece in pieces]
    return []


def _folder(name: str, *, weights: str) -> Path:
    """The folder with the files of a model: its own, or a snapshot in the hub's cache, fetched if need be."""
    given = _as_folder(name)
    if given.is_dir():
        if not (given / "config.json").is_file():
            raise MissingPath(f"no model in {name}: it holds no config.json")
        return given
    repository, at, revision = name.partition("@")
    try:
        if at and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", revision):
            raise HFValidationError(revision)
        config = try_to_load_from_cache(repository, "config.json", revision=revision or None)
    except HFValidationError as error:
        raise UnknownModel(
            f"neither a folder nor the name of a repository on the hub: {name!r}"
            " (it is owner/name or owner/name@revision)"
        ) from error
    folder = Path(config).parent if isinstance(config, str) else None
    if folder and (weights != "pretrained" or _weights_files(folder)):
        return folder
    if folder:
        checkpoints.require_hub(f"hf:{name}")
    else:
        checkpoints.require_hub(
            f"hf:{name}", noun="files", instead="or name a folder that holds them: hf:FOLDER"
        )
    return _fetched(repository, revision or None, weights=weights)


def _fetched(repository: str, revision: str | None, *, weights: str) -> Path:
    full = f"hf:{repository}" + (f"@{revision}" if revision else "")
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=DESCRIPTIONS))
        for name in WEIGHTS if weights == "pretrained" else ():
            stem, _, suffix = name.rpartition(".")
            wanted = [name, f"{name}.index.json", f"{stem}-*-of-*.{suffix}"]
            snapshot_download(repository, revision=revision, allow_patterns=wanted)
            if _weights_files(folder):
                break
    except GatedRepoError as error:
        raise NotCached(
            f"{full} is gated: accept its terms at {constants.ENDPOINT}/{repository}, then `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UnknownModel(f"there is no {full}: {error}") from error
    except OSError as error:
        raise NotCached(f"{full} could not be fetched: {error}") from error
    if not (folder / "config.json").is_file():
        raise UnknownModel(f"{full} is no model of transformers: it holds no config.json")
    return folder


def _model_type(folder: Path) -> str:
    try:
        return str((image_processors.read_json(folder / "config.json") or {}).get("model_type", ""))
    except WeightsError:
        return ""


def _image_size(config: Any) -> tuple[int, int]:
    inner = getattr(config, "vision_config", config)
    size = getattr(inner, "image_size", None) or 224  # what transformers' own classes default to
    rows, columns = size if isinstance(size, (list, tuple)) else (size, size)
    return int(rows), int(columns)


def _as_folder(name: str) -> Path:
    return Path(name).expanduser()


@contextlib.contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Without transformers' progress bars, and its report of what does not fit: that is an error here."""
    logging = library.utils.logging
    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()
