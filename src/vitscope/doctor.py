"""Is this installation sound? What `vitscope doctor` reports."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitscope import extras
from vitscope.provenance import versions


def checkup() -> dict[str, Any]:
    """Facts about this machine and four checks; `ok` is true where every check passed.

    A check is "ok" or says what is wrong and what to do.
    """
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        "extras": extras.versions(),
    }
    checks = {name: _outcome(check) for name, check in CHECKS.items()}
    return {
        "ok": all(outcome == "ok" for outcome in checks.values()),
        **facts,
        **checks,
        "devices": _devices(),
    }


def _outcome(check: Callable[[], None]) -> str:
    try:
        check()
    except Exception as error:  # a check-up reports whatever it meets
        return f"{type(error).__name__}: {error}"
    return "ok"


def _torch_and_torchvision_fit() -> None:
    import torchvision.ops
    from torch import ones

    torchvision.ops.nms(ones(1, 4), ones(1), 0.5)  # fails where the two were built apart


def _bundled_model_runs() -> None:
    import torch

    from vitscope.models import load
    from vitscope.tap import read

    model = load("vitscope:vit_mini")
    site = model.sites.named("logits")
    read(model, torch.zeros(1, 3, *model.preprocessing.size), [site])


def _demo_images_are_there() -> None:
    from vitscope.data import images

    next(iter(images("demo:").shards()))


def _room_to_work() -> None:
    free = shutil.disk_usage(Path.cwd()).free
    if free < 1 << 30:
        raise OSError(f"only {free >> 20} MiB are free in {Path.cwd()}; an atlas takes about 10 kB a unit")


CHECKS: dict[str, Callable[[], None]] = {
    "torch and torchvision": _torch_and_torchvision_fit,
    "bundled model": _bundled_model_runs,
    "demo images": _demo_images_are_there,
    "disk": _room_to_work,
}


def _devices() -> list[str]:
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    found += [
        f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())
    ]
    return found + (["mps"] if torch.backends.mps.is_available() else [])
