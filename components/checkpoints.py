"""A training run's checkpoint on an object store: a preempted pod's successor goes on from there.

What a run leaves that failed goes there too: a pod's own disk is gone with it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from components.progress import say

if TYPE_CHECKING:
    from dfcore.storage import ObjectStore

__all__ = ["bad_batches_kept", "mirrored"]

CHECKPOINT = "checkpoint.safetensors"
_BAD_BATCHES = "bad_batch*.safetensors"
_SECONDS = 2.0


@contextmanager
def mirrored(folder: Path, uri: str | None, key: str, step: str) -> Iterator[None]:
    """Fetch the run's checkpoint, and upload each new one beside the work; a finished run's is removed.

    Where the work fails, the batches that it failed on are uploaded.

    Args:
        folder: the run's; its own checkpoint, if it has one, is newer.
        uri: the object store; None keeps checkpoints in the folder alone.
        key: names the run.
        step: what progress calls it.
    """
    if uri is None:
        yield
        return
    from dfcore.storage import open_store

    store = open_store(uri)
    name, path = f"{key}/{CHECKPOINT}", folder / CHECKPOINT
    if not path.is_file() and store.etag(name) is not None:
        store.download_file(name, path)
        say(step, f"goes on from the checkpoint in {uri}")
    mirror = _Mirror(store, name, path, step)
    mirror.thread.start()
    try:
        with bad_batches_kept(folder, store, key, step):
            yield
    finally:
        mirror.stop.set()
        mirror.thread.join()
        mirror.upload()
    mirror.remove()


@contextmanager
def bad_batches_kept(folder: Path, store: "ObjectStore", key: str, step: str) -> Iterator[None]:
    """Upload the batches whose loss was not finite, if the work fails by one, and say where they lie.

    Args:
        folder: the run's.
        store: the object store.
        key: names the run.
        step: what progress calls it.
    """
    from dfcore.errors import RampartError

    before = {path: _written(path) for path in folder.glob(_BAD_BATCHES)}
    try:
        yield
    except RampartError:
        for path in sorted(folder.glob(_BAD_BATCHES)):
            if _written(path) == before.get(path):
                continue  # an earlier run's
            try:
                store.put(f"{key}/{path.name}", path.read_bytes())
                say(step, f"the batch that it failed on is in {store.uri}/{key}/{path.name}")
            except (RampartError, OSError) as error:
                say(step, f"the batch that it failed on could not be kept in {store.uri}: {error}")
        raise


class _Mirror:
    """Uploads the checkpoint whenever the training has written a new one."""

    def __init__(self, store: "ObjectStore", name: str, path: Path, step: str) -> None:
        self._store, self._name, self._path, self._step = store, name, path, step
        self._seen = _written(path)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)

    def upload(self) -> None:
        """Upload the checkpoint if it is new; a store that is away only costs progress after a preemption."""
        from dfcore.errors import RampartError

        written = _written(self._path)
        if written in (None, self._seen):
            return
        try:
            # the training renames a whole file into place, so this reads one checkpoint or the next
            self._store.put(self._name, self._path.read_bytes())
            self._seen = written
        except (RampartError, OSError) as error:
            say(self._step, f"the checkpoint is not in {self._store.uri} yet: {error}")

    def remove(self) -> None:
        """Remove what a finished run needs no more; where it can't, it costs some room."""
        from dfcore.errors import RampartError

        try:
            self._store.delete(self._name)
        except (RampartError, OSError) as error:
            say(self._step, f"the checkpoint stays in {self._store.uri}: {error}")

    def _run(self) -> None:
        while not self.stop.wait(_SECONDS):
            self.upload()


def _written(path: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError):
        found = path.stat()
        return found.st_mtime_ns, found.st_ino
    return None
