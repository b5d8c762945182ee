"""Reading weights files: nothing is executed, nothing is guessed, and every fault names the file."""

from __future__ import annotations

import pickle
import socket
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vitscope.errors import MissingPath, NotCached, WeightsError

LISTED = 10
"""How many missing and unexpected keys an error lists."""
PROBE_SECONDS = 1.0
"""How long to wait for a host before this machine counts as offline."""

INSTEAD = "or give --weights FILE, or --weights random for a model without training"
"""What can be done without the network where weights are not on this machine."""

Built = TypeVar("Built")


def seeded(build: Callable[[], Built], *, seed: int) -> Built:
    """What `build` makes from random numbers of this seed; the global generators are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


def fill(module: nn.Module, path: str | Path) -> None:
    """Put the weights of a file into a module, strictly.

    Raises:
        MissingPath: there is no such file.
        WeightsError: it cannot be read, wants to run code, or its keys or shapes do not fit.
    """
    fill_from(module, read_weights(Path(path)), origin=str(path))


def fill_from(module: nn.Module, state: Mapping[str, Tensor], *, origin: str) -> None:
    """Put named tensors into a module, strictly; `origin` is where they came from, for the error.

    Raises:
        WeightsError: keys or shapes do not fit.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    if missing or unexpected:
        raise misfit(module, origin=origin, missing=missing, unexpected=unexpected)
    odd = [key for key in expected if expected[key].shape != state[key].shape]
    if odd:
        shapes = ", ".join(
            f"{k} {tuple(state[k].shape)} for {tuple(expected[k].shape)}" for k in odd[:LISTED]
        )
        raise WeightsError(
            f"{origin} does not fit {type(module).__name__}: {len(odd)} other shapes ({shapes})"
        )
    module.load_state_dict(state, strict=True)


def misfit(module: nn.Module, *, origin: str, missing: list[str], unexpected: list[str]) -> WeightsError:
    """The error for weights whose keys are not the module's."""
    return WeightsError(
        f"{origin} does not fit {type(module).__name__}:"
        f" {_listing('missing', missing)}; {_listing('unexpected', unexpected)}"
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors`, `.pt` or `.pth` file, floating ones as float32, on the CPU.

    A `.pt` may hold the tensors themselves or, as training scripts write, under "state_dict" or "model".
    """
    if not path.is_file():
        raise MissingPath(f"no weights file {path}: weights are 'pretrained', 'random' or an existing file")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except (SafetensorError, OSError, EOFError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"cannot read the weights {path}: {error or type(error).__name__}") from error
    return {key: value.float() if value.is_floating_point() else value for key, value in found.items()}


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles: they are read, or refused below
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"refused {path}: it is not a plain file of tensors but wants to run code, and was not executed."
            " Save its state_dict() as .safetensors"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} holds {type(content).__name__}, not named tensors")
    return {str(key): value for key, value in content.items()}


def check_finite(module: nn.Module, name: str) -> None:
    """Refuse weights with NaN or infinity, naming the first such tensor."""
    for key, value in module.state_dict().items():
        if value.is_floating_point() and value.numel() and not all(x.isfinite() for x in value.aminmax()):
            raise WeightsError(f"the weights of {name} are not finite: {key} holds NaN or infinity")


def require_hub(
    wanted: str, *, url: str = constants.ENDPOINT, noun: str = "weights", instead: str = INSTEAD
) -> None:
    """As `require_online`, of the Hugging Face hub if no other `url` is given; HF_HUB_OFFLINE is respected.

    Raises:
        NotCached: the switch is set, or the host does not answer.
    """
    if constants.HF_HUB_OFFLINE:
        raise NotCached(
            f"the {noun} of {wanted} are not on this machine, and HF_HUB_OFFLINE is set."
            f" Unset it once, {instead}"
        )
    require_online(url, wanted=wanted, noun=noun, instead=instead)


def require_online(url: str, *, wanted: str, noun: str = "weights", instead: str = INSTEAD) -> None:
    """Return where the host of `url` answers; within about a second.

    Args:
        url: of what would be fetched.
        wanted: the model, for the error.
        noun: what of the model would be fetched.
        instead: what else the user can do.

    Raises:
        NotCached: it does not, so what is `wanted` cannot be fetched.
    """
    if not _answers(url):
        raise NotCached(
            f"the {noun} of {wanted} are not on this machine, and {urlsplit(url).hostname} does not answer."
            f" Go online once, {instead}"
        )


def _answers(url: str) -> bool:
    """Whether the host, or its proxy, takes a connection. In a thread: name look-ups have no time limit."""
    target = urlsplit(getproxies().get(urlsplit(url).scheme, url))
    answered = threading.Event()

    def knock() -> None:
        try:
            with socket.create_connection((target.hostname, target.port or 443), timeout=PROBE_SECONDS):
                answered.set()
        except OSError:
            pass
        finally:
            done.set()

    done = threading.Event()
    threading.Thread(target=knock, daemon=True).start()
    done.wait(PROBE_SECONDS)
    return answered.is_set()


def _listing(word: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:LISTED]) + (", ..." if len(keys) > LISTED else "")
    return f"{len(keys)} {word}" + (f" ({shown})" if keys else "")
