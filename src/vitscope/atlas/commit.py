"""How bytes reach the disk so that a kill, a full disk or a second writer never leaves half a file.

A file is written under a temporary name in its own folder, synced, renamed over its final name, and the
folder is synced: whoever sees the name sees all of the bytes. Leases are advisory: losing
one costs double work, never data.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeVar

from vitscope.errors import AtlasError, NotWritable

HEARTBEAT = 20.0
"""Seconds between two signs of life of a lease's holder."""
STALE = 180.0
"""Seconds without a sign of life after which a lease of another host may be taken over: nine missed
heartbeats."""
ABANDONED = 3600.0
"""Seconds after which a temporary file belongs to nobody: no single write takes an hour."""
_TEMPORARY = re.compile(r"\..+\.(?P<host>[^.]+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}

Task = TypeVar("Task", bound=Hashable)


def file_name(text: str) -> str:
    """The text as the name of a file: what is no letter, digit, dot or dash becomes an underscore."""
    return re.sub(r"[^\w.-]+", "_", text)


def _host() -> str:
    return re.sub(r"\W", "-", socket.gethostname()) or "host"


def write(path: Path, content: bytes, *, onto: Literal["any", "nothing"] = "any") -> None:
    """Make `path` hold exactly `content`, all or nothing, durable when this returns.

    Args:
        path: the file's final name.
        content: all of its bytes.
        onto: "nothing" leaves a file that is there already as it is, even when two writers start at once.

    Raises:
        AtlasError: the disk is full; the message says how much is free. Nothing else was changed.
        NotWritable: the file system does not allow it.
    """
    temporary = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_synced(temporary, content)
            if onto == "any":
                temporary.replace(path)
            else:
                _settle(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink()
        _sync_folder(path.parent)
    except OSError as error:
        raise _explained(error, path) from error


def _settle(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            temporary.replace(path)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot sync a folder; the rename is atomic there all the same
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _explained(error: OSError, path: Path) -> Exception:
    if error.errno in _FULL:
        return AtlasError(
            f"the disk is full: cannot write {path.name} ({_free(path.parent)} free at {path.parent}). "
            "What is finished stays readable; free some space and run the same command again to go on"
        )
    if error.errno in _FORBIDDEN:
        return NotWritable(f"cannot write to {path.parent}: {error.strerror}. Choose another output folder")
    return AtlasError(f"cannot write {path}: {error.strerror or error}")


def _free(folder: Path) -> str:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return f"{shutil.disk_usage(existing).free / 1e6:.1f} MB"


def check_writable(folder: Path) -> None:
    """Write one byte where the folder is or would be, so that a wrong output is found before any work.

    Raises:
        NotWritable: the folder cannot be made or written.
        AtlasError: the disk is full.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    probe = existing / f".probe.{_host()}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        _write_synced(probe, b"\0")
    except OSError as error:
        if error.errno in _FULL:
            raise _explained(error, probe) from error
        raise NotWritable(
            f"cannot write to {folder}: {existing}: {error.strerror}. Choose another output folder"
        ) from error
    finally:
        with suppress(OSError):
            probe.unlink()


def sweep(folder: Path) -> int:
    """Remove temporary files whose writer is gone, in `folder` and below; how many there were."""
    gone = [path for path in folder.rglob(".*.tmp") if _abandoned(path)]
    for path in gone:
        with suppress(OSError):
            path.unlink()
    return len(gone)


def _abandoned(path: Path) -> bool:
    found = _TEMPORARY.fullmatch(path.name)
    if found is None:
        return False
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > ABANDONED:
            return True
    return found["host"] == _host() and not _alive(int(found["pid"]))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it exists and belongs to somebody else
        return True
    return True


@contextmanager
def lease(path: Path) -> Iterator[bool]:
    """Hold a lease while the block runs, if nobody alive holds it; yields whether it was got.

    The file says who holds it. Its modification time is the last sign of life; a lease of a dead process of
    this host, or one without a sign of life for `STALE` seconds, is taken over.
    """
    if not _take(path):
        yield False
        return
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, ended), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        ended.set()
        beat.join()
        with suppress(OSError):
            path.unlink()


def _take(path: Path) -> bool:
    for _ in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x") as file:
                json.dump({"host": _host(), "pid": os.getpid()}, file)
        except FileExistsError:
            if not _stale(path):
                return False
            with suppress(OSError):
                path.unlink()
        except FileNotFoundError:  # another writer removed the empty folder between the two steps
            continue
        except OSError as error:
            raise _explained(error, path) from error
        else:
            return True
    return False


def _stale(path: Path) -> bool:
    try:
        silent = time.time() - path.stat().st_mtime
        holder = json.loads(path.read_text())
        dead = holder["host"] == _host() and not _alive(int(holder["pid"]))
    except FileNotFoundError:  # given back a moment ago
        return True
    except (OSError, ValueError, KeyError, TypeError):  # being written, or cut short by a full disk
        return silent > STALE
    return dead or silent > STALE


def clear_leases(folder: Path) -> None:
    """Remove leases that nobody alive holds, and the folder once it is empty."""
    for path in folder.glob("*.lease"):
        if _stale(path):
            with suppress(OSError):
                path.unlink()
    with suppress(OSError):
        folder.rmdir()


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        with suppress(OSError):
            os.utime(path)


def claimed(
    tasks: Sequence[Task], folder: Path, *, done: Callable[[Task], bool], pause: float = 0.5
) -> Generator[Task, None, None]:
    """Hand out the tasks that no other writer is doing, holding a lease on each until the next is asked for.

    A task that somebody else holds is tried again later, so at the end every task is done, here or there.

    Args:
        tasks: work whose `str` is a file name.
        folder: where the leases are kept.
        done: whether a task's output is there.
        pause: seconds between two looks at tasks that others hold.
    """
    waiting = list(tasks)
    while waiting:
        held: list[Task] = []
        for task in waiting:
            with lease(folder / f"{task}.lease") as mine:
                if mine and not done(task):
                    yield task
                elif not mine:
                    held.append(task)
        if len(held) == len(waiting):
            time.sleep(pause)
        waiting = [task for task in held if not done(task)]
