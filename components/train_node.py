"""python -m components.train_node: one machine of a TrainJob; RAMPART_ORDER says where its order lies.

Trainer sets PET_NNODES, PET_NPROC_PER_NODE, PET_NODE_RANK and the master's address, which torchrun reads. The
first machine keeps the checkpoint on the object store and leaves the result there.
"""

import json
import os
import sys
from pathlib import Path

from components.checkpoints import CHECKPOINT, bad_batches_kept, mirrored
from components.training import TrainingOrder, read_order, torchrun

__all__ = ["main"]


def main(place: str, folder: Path) -> None:
    """Train this machine's share.

    Args:
        place: s3:// address of the order.
        folder: scratch space.

    Raises:
        WorkFailed: torchrun's processes failed.
    """
    from dfcore.storage import open_store

    head, _, key = place.rstrip("/").rpartition("/")
    store, out = open_store(head), folder / "model"
    out.mkdir(parents=True, exist_ok=True)
    order: TrainingOrder = read_order(json.loads(store.get(f"{key}/order.json")))
    if order.initial is not None:
        store.download_folder(f"{key}/initial", folder / "initial")
        order = order._replace(initial=str(folder / "initial"))
    if os.environ.get("PET_NODE_RANK", "0") != "0":
        if store.etag(f"{key}/{CHECKPOINT}") is not None:
            store.download_file(f"{key}/{CHECKPOINT}", out / CHECKPOINT)
        with bad_batches_kept(out, store, key, order.step):
            torchrun(order, out, [])
        return
    with mirrored(out, head, key, order.step):
        torchrun(order, out, [])
        for path in out.rglob("*"):
            if path.is_file() and path.name != CHECKPOINT:
                store.put(f"{key}/result/{path.relative_to(out).as_posix()}", path.read_bytes())


def _run() -> None:
    from dfcore.errors import RampartError

    try:
        main(os.environ["RAMPART_ORDER"], Path("/tmp/rampart-train"))  # noqa: S108  # the pod's own
    except RampartError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    _run()
