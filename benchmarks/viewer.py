"""How fast the viewer is on an atlas of 40,000 units, how much memory it takes, and how large an export is.

The atlas is made of the real leaves of a smaller one, of `vitscope demo --no-serve` for instance, written
again and again under other numbers, so that tables, pictures and dreams are as large as they are in life. The
server is the one that `vitscope serve` starts, asked over HTTP.

    python benchmarks/viewer.py demo.atlas --units 40000 --clients 50 --seconds 20
    python benchmarks/viewer.py demo.atlas --export vit_b.site      # writes all 36,864 units of a ViT-B
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vitscope.atlas.leaf import LEAF, SAMPLED
from vitscope.atlas.manifest import LEAF_UNITS, SiteLayout
from vitscope.atlas.read import Atlas
from vitscope.atlas.store import Store
from vitscope.viewer.export import MOST_FILES
from vitscope.viewer.files import every_path, keep_below
from vitscope.viewer.library import Library
from vitscope.viewer.shelf import Shelf

SITE_UNITS = 3072
"""Units of a site of a ViT-B."""
VIT_B_UNITS = 12 * SITE_UNITS
"""Of all sites that `vitscope build` takes by itself, `blocks.*.ffn`."""
TABLES = {"units.parquet", "exemplars.parquet", "samples.parquet", "alike.parquet"}
"""Files of a leaf in which units have numbers."""


def enlarged(small: Path, large: Path, *, units: int) -> Store:
    """An atlas of that many units, of the whole leaves of a smaller one."""
    source = Store.open(small)
    whole = [(site, leaf) for site, leaf in source.leaves() if len(site.members(leaf)) == LEAF_UNITS]
    sizes = [min(SITE_UNITS, units - start) for start in range(0, units, SITE_UNITS)]
    sites = tuple(replace(whole[0][0], name=f"blocks.{at}.ffn", units=size) for at, size in enumerate(sizes))
    store = Store.prepare(large, replace(source.manifest, sites=sites))
    for (site, leaf), (old, number) in zip(store.leaves(), cycle(whole)):
        for bundle in (LEAF, SAMPLED):
            files = {part: source.leaf_file(old.name, number, part).read_bytes() for part in bundle.parts}
            for part in files.keys() & TABLES:
                files[part] = renumbered(files[part], site, leaf, first=old.members(number).start)
            store.commit_leaf(site.name, leaf, files, of=bundle)
    shutil.copytree(small / "images", large / "images")
    shutil.copy(small / "sample.json", large)
    return store


def renumbered(content: bytes, site: SiteLayout, leaf: int, *, first: int) -> bytes:
    """A table of a leaf under the numbers of another, without the units that this does not have."""
    table = pq.read_table(pa.BufferReader(content))
    members = site.members(leaf)
    moved = pa.array(table["unit"].to_numpy() - first + members.start, pa.int32())
    table = table.set_column(table.schema.get_field_index("unit"), "unit", moved)
    sink = io.BytesIO()
    pq.write_table(table.filter(pa.compute.less(table["unit"], members.stop)), sink, compression="zstd")
    return sink.getvalue()


def exported(large: Path, out: Path) -> dict[str, Any]:
    """The site that `vitscope export` writes of an atlas: files and bytes as they lie on the disk."""
    command = [sys.executable, "-m", "vitscope", "export", str(large), "--out", str(out), "--json"]
    begun, busy = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    kinds: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for path in (path for path in out.rglob("*") if path.is_file()):
        kind = path.relative_to(out).parts[2] if path.parts[len(out.parts)] == "a" else "others"
        kinds[kind] += 1
        sizes[kind] += path.stat().st_size
    return {
        "files": kinds.total(),
        "files_by_kind": dict(kinds),
        "megabytes": round(sizes.total() / 1e6, 1),
        "megabytes_by_kind": {kind: round(size / 1e6, 1) for kind, size in sizes.items()},
        "damaged": len(told["damaged"]),
        "seconds": time.perf_counter() - begun,
        "processor_seconds": used.ru_utime - busy,
        "peak_memory_mb": used.ru_maxrss / 1024,
    }


@contextmanager
def served(atlas: Path) -> Iterator[tuple[int, int]]:
    """The server of the command line: its port and its process."""
    command = [sys.executable, "-m", "vitscope", "serve", str(atlas), "--port", "0", "--live", "off"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline() if process.stderr else ""
            port = int(re.search(r":(\d+)", line).group(1))  # type: ignore[union-attr]
            while not _listens(port):
                time.sleep(0.05)
            yield port, process.pid
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    try:
        http.client.HTTPConnection("127.0.0.1", port, timeout=1).connect()
    except OSError:
        return False
    return True


def get(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes, float]:
    """Status, content and seconds of one request."""
    begun = time.perf_counter()
    connection.request("GET", f"/{path}")
    answer = connection.getresponse()
    content = answer.read()
    return answer.status, content, time.perf_counter() - begun


def memory(process: int) -> float:
    """Resident megabytes of a process."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text).group(1)) / 1024  # type: ignore[union-attr]


def walk(port: int, slug: str, store: Store, *, steps: int) -> dict[str, float]:
    """From the first page on, unit by unit, as a reader with `j` does; and from one site to the next."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    first = {name: get(connection, path)[2] for name, path in (
        ("first_page_s", f"a/{slug}/index.html"), ("home_s", "index.html"),
    )}  # fmt: skip
    seconds, sizes = [], []
    names = list(store.sites)
    for step in range(steps):
        site = names[step * len(names) // steps]
        status, content, took = get(
            connection, f"a/{slug}/unit/{site}/{step * 7 % store.sites[site].units}.html"
        )
        if status != 200:
            raise RuntimeError(f"status {status} of unit {site}:{step}")
        seconds.append(took)
        sizes.append(len(re.sub(rb'data:image[^"]+', b"", content)))
    return {
        **first,
        "next_unit_median_ms": 1e3 * statistics.median(seconds),
        "next_unit_p95_ms": 1e3 * statistics.quantiles(seconds, n=20)[-1],
        "unit_page_max_kb_without_images": max(sizes) / 1e3,
    }


def load(port: int, process: int, slug: str, store: Store, *, clients: int, seconds: float) -> dict[str, Any]:
    """Many readers at once: unit pages, and now and then a grid, its overview and numbers, or an image."""
    statuses: Counter[int | str] = Counter()
    times: list[float] = []
    memories = [memory(process)]
    end = time.monotonic() + seconds
    threads = [
        threading.Thread(target=_reader, args=(port, slug, store, end, seed, statuses, times))
        for seed in range(clients)
    ]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        time.sleep(seconds / 10)
        memories.append(memory(process))
    for thread in threads:
        thread.join()
    return {
        "requests": len(times),
        "requests_per_s": len(times) / seconds,
        "statuses": dict(statuses),
        "median_ms": 1e3 * statistics.median(times),
        "p99_ms": 1e3 * statistics.quantiles(times, n=100)[-1],
        "memory_mb": [round(value) for value in memories],
    }


def _reader(
    port: int,
    slug: str,
    store: Store,
    end: float,
    seed: int,
    statuses: Counter[int | str],
    times: list[float],
) -> None:
    draw = random.Random(seed)
    images = [path.stem for path in (store.root / "images").glob("*/*.webp")]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while time.monotonic() < end:
        site = store.sites[draw.choice(list(store.sites))]
        unit, page = draw.randrange(site.units), draw.randint(1, site.leaves)
        path = draw.choices(
            [
                f"unit/{site.name}/{unit}.html",
                f"site/{site.name}/{page}.html",
                f"sprite/{site.name}/{page}.webp",
                f"data/{site.name}.json",
                f"thumbnail/{draw.choice(images)}.webp",
            ],
            [16, 2, 2, 1, 4],
        )[0]
        try:
            status, _, took = get(connection, f"a/{slug}/{path}")
        except (OSError, http.client.HTTPException) as error:
            statuses[type(error).__name__] += 1
            connection.close()
            continue
        statuses[status] += 1
        times.append(took)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("atlas", type=Path)
    parser.add_argument("--units", type=int, default=40_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--export", type=Path, metavar="SITE", help="write the units of a ViT-B here instead")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.atlas"
        if asked.export is not None:
            enlarged(asked.atlas, large, units=VIT_B_UNITS)
            print(json.dumps(exported(large, asked.export), indent=1))
            return
        store = enlarged(asked.atlas, large, units=asked.units)
        with served(large) as (port, process):
            found: dict[str, Any] = {"memory_at_start_mb": round(memory(process))}
            found |= walk(port, "large", store, steps=100)
            many = partial(load, port, process, "large", store, clients=asked.clients)
            many(seconds=asked.seconds / 4)  # until caches are full
            found |= many(seconds=asked.seconds)
        library = Library(Shelf([Atlas.open(large)]), served=False)
        keep_below(library, MOST_FILES)
        paths = list(every_path(library))
        found["files_of_an_export"] = len(paths)  # thumbnails share sheets where there are too many
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
