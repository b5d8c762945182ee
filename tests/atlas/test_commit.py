"""Atomic writes, sweeping, leases: `vitscope.atlas.commit`."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vitscope.atlas import commit
from vitscope.atlas.commit import check_writable, claimed, file_name, lease, sweep, write
from vitscope.errors import AtlasError, NotWritable


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_any_text_names_a_file():
    assert file_name("timm:vit_tiny (2)") == "timm_vit_tiny_2_"


def test_write_replaces_all_or_nothing(tmp_path):
    path = tmp_path / "deep" / "file"
    write(path, b"one")
    write(path, b"two")
    assert path.read_bytes() == b"two"
    assert [child.name for child in path.parent.iterdir()] == ["file"]


def test_write_onto_nothing_keeps_what_is_there(tmp_path):
    write(tmp_path / "file", b"first", onto="nothing")
    write(tmp_path / "file", b"second", onto="nothing")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_write_onto_nothing_without_hard_links(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    write(tmp_path / "file", b"first", onto="nothing")
    write(tmp_path / "file", b"second", onto="nothing")
    assert (tmp_path / "file").read_bytes() == b"first"


def test_fault_066_disk_full_names_the_free_space_and_leaves_no_trace(tmp_path, monkeypatch):
    write(tmp_path / "file", b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        AtlasError, match=r"the disk is full: cannot write file \(\d+\.\d MB free at .*same command"
    ):
        write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_fault_066_check_writable_on_a_full_disk(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AtlasError, match="the disk is full"):
        check_writable(tmp_path / "new.atlas")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_fault_061_read_only_output(tmp_path, monkeypatch, code):
    def refuse(path, content):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(commit, "_write_synced", refuse)
    with pytest.raises(
        NotWritable, match=r"cannot write to .*new\.atlas.*Choose another output folder"
    ) as caught:
        check_writable(tmp_path / "new.atlas")
    assert caught.value.exit_code == 2
    with pytest.raises(NotWritable, match="Choose another output folder"):
        write(tmp_path / "file", b"")


def test_fault_061_output_below_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotWritable, match="Not a directory"):
        check_writable(tmp_path / "file" / "new.atlas")


def test_check_writable_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "a" / "b.atlas")
    assert list(tmp_path.iterdir()) == []


def test_sweep_removes_only_what_belongs_to_nobody(tmp_path):
    host, dead = commit._host(), dead_pid()
    left = tmp_path / "sites" / f".0001.ok.{host}.{dead}.0123abcd.tmp"
    mine = tmp_path / f".0001.ok.{host}.{os.getpid()}.0123abcd.tmp"
    other = tmp_path / f".0001.ok.elsewhere.{dead}.0123abcd.tmp"
    old = tmp_path / ".0002.ok.elsewhere.1.0123abcd.tmp"
    foreign = tmp_path / ".mine.tmp"
    left.parent.mkdir()
    for path in (left, mine, other, old, foreign):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    assert sweep(tmp_path) == 2
    assert sorted(tmp_path.rglob("*.tmp")) == sorted([mine, other, foreign])


def test_a_lease_is_held_by_one(tmp_path):
    with lease(tmp_path / "task.lease") as first, lease(tmp_path / "task.lease") as second:
        assert (first, second) == (True, False)
    with lease(tmp_path / "task.lease") as again:
        assert again
    assert list(tmp_path.iterdir()) == []


def test_a_lease_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(commit, "HEARTBEAT", 0.01)
    with lease(tmp_path / "task.lease"):
        os.utime(tmp_path / "task.lease", (0, 0))
        time.sleep(0.2)
        assert time.time() - (tmp_path / "task.lease").stat().st_mtime < 5


@pytest.mark.parametrize(
    ("holder", "age", "taken"),
    [
        ("dead here", 0, True),
        ("elsewhere", 0, False),
        ("elsewhere", 2 * commit.STALE, True),
        ("alive here", 0, False),
        ("nonsense", 0, False),
        ("nonsense", 2 * commit.STALE, True),
    ],
)
def test_fault_069_a_stale_lease_is_taken_over(tmp_path, holder, age, taken):
    path = tmp_path / "task.lease"
    facts = {
        "dead here": {"host": commit._host(), "pid": dead_pid()},
        "alive here": {"host": commit._host(), "pid": os.getppid()},
        "elsewhere": {"host": "elsewhere", "pid": 1},
    }
    path.write_text(json.dumps(facts[holder]) if holder in facts else "{")
    os.utime(path, (time.time() - age, time.time() - age))
    with lease(path) as mine:
        assert mine is taken


def test_fault_067_two_writers_share_the_work(tmp_path):
    tasks = [f"task{number}" for number in range(12)]
    done: list[str] = []

    def work() -> None:
        for task in claimed(tasks, tmp_path, done=lambda task: task in done, pause=0.001):
            time.sleep(0.002)
            done.append(task)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == sorted(tasks), "every task once"


def test_claimed_waits_for_a_task_that_another_holds(tmp_path):
    tasks, done, got = ["one", "two"], set(), []
    with lease(tmp_path / "one.lease"):
        timer = threading.Timer(0.05, done.add, ["one"])
        timer.start()
        for task in claimed(tasks, tmp_path, done=done.__contains__, pause=0.01):
            got.append(task)
            done.add(task)
    timer.join()
    assert got == ["two"]
    assert done == {"one", "two"}
