"""What changed since a file of vectors was written: items that are new, that have another input, or that are gone."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from csn_jax.data.to_embed import ToEmbed
from csn_jax.errors import UserError
from csn_jax.store.embeddings import Embeddings


class Changes(NamedTuple):
    """N items of now beside the M items of a file.

    old: of the file.
    source: [N] the row of the file that holds an item's vector, or -1 for an item to embed.
    n_new, n_changed, n_attributes, n_gone: items that the file lacks; that have another input; that have the same input
        and other attributes; that the file has and that are gone.
    """

    old: Embeddings
    source: np.ndarray
    n_new: int
    n_changed: int
    n_attributes: int
    n_gone: int

    @property
    def rows(self) -> np.ndarray:
        """The positions of the items to embed."""
        return np.flatnonzero(self.source < 0)

    @property
    def n_same(self) -> int:
        """How many vectors stay as they are."""
        return len(self.source) - len(self.rows)

    def to(self, ids: np.ndarray) -> "Changes":
        """The changes to a file of these ids [M], which lacks the items that could not be read."""
        known = len({*ids.tolist()} & {*self.old.ids.tolist()})
        return self._replace(n_new=len(ids) - known, n_changed=known - self.n_same, n_gone=len(self.old.ids) - known)

    def __str__(self) -> str:
        kept = f"{self.n_same:,} vectors kept" + f", {self.n_attributes:,} with other attributes" * bool(
            self.n_attributes
        )
        return f"{self.n_new:,} new, {self.n_changed:,} changed, {self.n_gone:,} gone; {kept}"


def check_updatable(old: Embeddings, out: Path, model_sha256: str, dtype: str) -> None:
    """Raise UserError unless vectors of the file can stand beside new ones of the model."""
    if not old.conditions:
        raise UserError(f"--out={out} holds features, which --update does not keep; pass --rebuild to replace it.")
    if old.model_sha256 != model_sha256:
        raise UserError(
            f"--out={out} was made by another model ({old.model_sha256[:12]}) than the workdir's "
            f"({model_sha256[:12]}), whose vectors do not compare; pass --rebuild to embed all items again."
        )
    stored = old.vectors.dtype.name if old.scale is None else "int8"
    if stored != dtype:
        raise UserError(
            f"--out={out} holds vectors of {stored}, and --dtype is {dtype}; pass --dtype={stored}, or --rebuild to "
            "replace it."
        )


def changes_of(old: Embeddings, items: ToEmbed, digests: np.ndarray) -> Changes:
    """Compare items, whose inputs have digests [N, 16], with those of a file. A file without digests, of an older
    version, holds nothing that can be kept."""
    row_of = {item: row for row, item in enumerate(old.ids.tolist())}
    before = np.array([row_of.get(item, -1) for item in items.ids.tolist()], int)
    known = np.flatnonzero(before >= 0)
    same = np.zeros(len(before), bool)
    if old.digests is not None:
        same[known] = np.all(old.digests[before[known]] == digests[known], axis=1)
    kept = np.flatnonzero(same)
    other = np.full(len(kept), items.columns.keys() != old.columns.keys())
    for name in items.columns.keys() & old.columns.keys():
        other |= items.columns[name][kept] != old.columns[name][before[kept]]
    return Changes(
        old=old,
        source=np.where(same, before, -1),
        n_new=len(before) - len(known),
        n_changed=len(known) - len(kept),
        n_attributes=int(other.sum()),
        n_gone=len(row_of) - len(known),
    )


def merged(path: Path, changes: Changes, vectors: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors that stay, and new ones [K, D] of the items to embed at positions `kept` [K] among these: (all vectors
    [M, D] in the order of the items, memory-mapped in a file; the positions [M] of their items)."""
    place = np.full(len(changes.source), -1)
    place[changes.rows[kept]] = np.arange(len(kept))
    rows = np.flatnonzero((changes.source >= 0) | (place >= 0))
    if not changes.n_same:
        return vectors, rows
    stored = changes.old.vectors
    joined = np.lib.format.open_memmap(path, "w+", stored.dtype, (len(rows), stored.shape[1]))
    stays = changes.source[rows] >= 0
    joined[np.flatnonzero(stays)] = stored[changes.source[rows[stays]]]
    joined[np.flatnonzero(~stays)] = vectors[place[rows[~stays]]].reshape(-1, stored.shape[1])
    return joined, rows
