"""Kills small builds at random moments and lets them go on: the process that `test_kill.py` starts.

It imports torch and makes a model once, and forks a child for every build, since starting Python anew forty
times takes minutes. It prints, as JSON, the hash of every file of the atlas of an uninterrupted build, and
for each kill its moment, whether it came before the end, and the hashes after the same build was run again.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from vitscope.atlas.building import build
from vitscope.data import images
from vitscope.dream.recipes import GHIASI_2022
from vitscope.testing import tiny_vit

QUICK = GHIASI_2022.replace(name="quick", steps=2, copies=2)
MODEL = tiny_vit(depth=2)


def start(photos: Path, out: Path) -> int:
    child = os.fork()
    if child == 0:
        settings = {
            "sites": "blocks.*.ffn",
            "k": 3,
            "dreams": 2,
            "repeats": 2,
            "recipe": QUICK,
            "shard_size": 8,
            "batch_size": 2,
        }
        build(MODEL, images(f"folder:{photos}"), out=out, **settings)
        os._exit(0)
    return child


def run(photos: Path, out: Path) -> float:
    begun = time.monotonic()
    _, status = os.waitpid(start(photos, out), 0)
    if status:
        sys.exit(f"a build of {out} ended with status {status}")
    return time.monotonic() - begun


def hashes(root: Path) -> dict[str, str]:
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.parent.name != "runs"]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def kill_one(photos: Path, out: Path, delay: float) -> dict[str, object]:
    child = start(photos, out)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    before = hashes(out) if out.exists() else {}
    run(photos, out)
    return {"delay": delay, "killed": os.WIFSIGNALED(status), "files": len(before), "after": hashes(out)}


def main(folder: Path, kills: int) -> None:
    torch.set_num_threads(1)
    photos = folder / "photos"
    seconds = min(run(photos, folder / "whole"), run(photos, folder / "warm"))
    draw = random.Random(0)
    found: list[dict[str, object]] = []
    while sum(bool(kill["killed"]) for kill in found) < kills and len(found) < 3 * kills:
        number = len(found)  # under a changing load some builds end before their moment: those do not count
        delay = seconds * (number % kills + draw.random()) / kills
        found.append(kill_one(photos, folder / f"killed-{number}", delay))
    sys.stdout.write(json.dumps({"seconds": seconds, "whole": hashes(folder / "whole"), "kills": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
