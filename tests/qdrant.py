"""Where tests store things in Qdrant: a folder, and the server of CSN_JAX_QDRANT if that is set."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from csn_jax.store.qdrant import connected

KINDS = ["folder", "server"] if os.environ.get("CSN_JAX_QDRANT") else ["folder"]


@contextmanager
def place(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    """(a place, the name of a collection that it does not have); on a server the collection is removed at the end."""
    if kind == "folder":
        folder.mkdir(exist_ok=True)
        yield str(folder / "store"), "shop"
        return
    where, name = os.environ["CSN_JAX_QDRANT"], f"csn_{uuid.uuid4().hex[:12]}"
    try:
        yield where, name
    finally:
        with connected(where, "--qdrant") as client:
            client.delete_collection(name)
