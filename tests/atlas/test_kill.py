"""`kill -9` at random moments, then the same build again: every byte as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

KILLS = 20


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fault_063_killed_at_20_random_moments_it_resumes_to_the_same_bytes(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(24):
        pixels = rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02d}.png")
    script = Path(__file__).with_name("kill_server.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(KILLS)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert sum(kill["killed"] for kill in found["kills"]) == KILLS
    assert len({kill["files"] for kill in found["kills"]}) >= 5, "at different stages"
    for kill in found["kills"]:
        assert kill["after"] == found["whole"], f"after {kill['delay']:.2f} s"
