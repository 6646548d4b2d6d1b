"""Which rows a store lacks, and which of its rows are gone. It takes 41 bytes per item in memory, and one page of the
store at a time."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from csn_jax.errors import UserError
from csn_jax.store.embeddings import Embeddings
from csn_jax.store.int8 import pieces

WIDTH = 16  # bytes of a key or a digest


class Wanted:
    """The N rows that a store is to hold.

    digests: [N, 16] uint8: of each row's id, attributes and vector.
    """

    def __init__(self, embeddings: Embeddings, key_of: Callable[[str], bytes]):
        """`key_of` gives the 16 bytes by which the store's rows are found again. A UserError if an id repeats, as it
        can in part files."""
        n, names = len(embeddings.ids), sorted(embeddings.columns)
        self.digests, keys = np.empty((n, WIDTH), np.uint8), np.empty(n, f"S{WIDTH}")
        for rows in pieces(n):
            texts = [embeddings.columns[name][rows].tolist() for name in names]
            vectors, ids = np.asarray(embeddings.vectors[rows], np.float32), embeddings.ids[rows].tolist()
            for row, item, vector, *values in zip(range(*rows.indices(n)), ids, vectors, *texts, strict=True):
                text = "\0".join([item, *(f"{n}\1{value}" for n, value in zip(names, values, strict=True) if value)])
                hasher = hashlib.sha256(text.encode(errors="surrogatepass") + b"\0\0")
                hasher.update(vector)
                self.digests[row] = np.frombuffer(hasher.digest()[:WIDTH], np.uint8)
                keys[row] = key_of(item)
        self._order = np.argsort(keys, kind="stable")
        self._sorted, self._stored = keys[self._order], np.zeros(n, bool)
        again = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if len(again):
            item = embeddings.ids[int(self._order[again[0]])]
            raise UserError(
                f"the id {item!r} has several items, and a store takes one; remove the other from the parts."
            )

    def compare(self, keys: Sequence[bytes], digests: Sequence[bytes]) -> np.ndarray:
        """Take note of K rows that the store holds. Returns which of them are gone: bool [K]. A row whose digest is
        unknown has an empty one."""
        held = np.array(keys, f"S{WIDTH}")
        if not len(held) or not len(self._sorted):
            return np.ones(len(held), bool)
        place = np.minimum(np.searchsorted(self._sorted, held), len(self._sorted) - 1)
        known, rows = self._sorted[place] == held, self._order[place]
        joined = b"".join(digest if len(digest) == WIDTH else bytes(WIDTH) for digest in digests)
        same = np.all(self.digests[rows] == np.frombuffer(joined, np.uint8).reshape(-1, WIDTH), axis=1)
        self._stored[rows[known & same]] = True
        return ~known

    def lacking(self) -> np.ndarray:
        """The rows that the store does not hold as they are, in order: [L]."""
        return np.flatnonzero(~self._stored)
