"""The file of vectors that embed writes: its place, its content, and what it already holds."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csn_jax.data.to_embed import ToEmbed
from csn_jax.embed.parts import embed_in_parts
from csn_jax.errors import UserError
from csn_jax.model.model import Model
from csn_jax.model.run import Run
from csn_jax.runtime.workdir import locked
from csn_jax.runtime.writer import say
from csn_jax.store.int8 import rounded
from csn_jax.store.vector_file import DamagedFile, Embeddings, check_path, read_embeddings, write_embeddings

if TYPE_CHECKING:
    from csn_jax.embed import Args


def check_out(args: "Args") -> Path:
    """The path of --out. UserError if a file of vectors cannot lie there."""
    out, table = Path(args.out).expanduser().absolute(), Path(args.table).expanduser()
    check_path(out, "--out")
    if not out.parent.is_dir():
        raise UserError(f"--out={args.out}: there is no folder {out.parent}; make it first, or give another.")
    if args.table and out.exists() and table.is_file() and out.samefile(table):
        raise UserError(f"--out={args.out} is the table itself; give another name.")
    return out


def digest(args: "Args", model: Model, items: ToEmbed) -> str:
    """SHA-256 of what decides over the file's content."""
    masks = [] if args.features else model.masks.tolist()
    request = [model.sha256, args.features, args.dtype, args.by_condition, masks, items.made_from]
    return hashlib.sha256(json.dumps(request).encode()).hexdigest()


def finished_ids(out: Path, made_from: str) -> np.ndarray:
    """The ids in the file of an earlier, equal request.

    Raises:
        UserError: when the file is of another request, of another program, or damaged.
    """
    try:
        embeddings = read_embeddings(out)
    except DamagedFile:
        raise
    except UserError:
        raise UserError(
            f"--out={out} exists but was not written by csn_jax embed; choose another path, or pass --rebuild to "
            "replace it."
        ) from None
    if embeddings.made_from != made_from:
        raise UserError(
            f"--out={out} exists but was made of other items, by another model or with other flags; choose another "
            "path, or pass --rebuild to replace it."
        )
    if (parts := _parts(out)).is_dir():  # killed between the whole file and the removal of its parts
        with locked(parts, "--out"):
            shutil.rmtree(parts)
    return embeddings.ids


def write_vectors(args: "Args", out: Path, run: Run, model: Model, items: ToEmbed, made_from: str) -> Embeddings:
    """Embed the items into the file, from where an earlier process stopped."""
    for note in items.notes:
        say(note)
    parts = _parts(out)
    try:
        parts.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written ({error.strerror}); choose another path.") from None
    with locked(parts, "--out"):
        try:
            function = model.features if args.features else model.embed
            vectors, kept = embed_in_parts(parts, made_from, items, function, args.dtype)
        except UserError:  # the same command would not get further
            shutil.rmtree(parts)
            raise
        vectors, scale = rounded(vectors) if args.dtype == "int8" else (vectors, None)
        embeddings = Embeddings(
            ids=items.ids[kept],
            vectors=vectors,
            columns={name: column[kept] for name, column in items.columns.items()},
            conditions=() if args.features else run.record.conditions,
            masks=np.zeros((0, vectors.shape[1]), np.float32) if args.features else model.masks,
            model_sha256=model.sha256,
            pictures=items.pictures,
            made_from=made_from,
            scale=scale,
        )
        write_embeddings(out, embeddings, by_condition=args.by_condition)
        shutil.rmtree(parts)
    return embeddings


def _parts(out: Path) -> Path:
    return out.with_name(f".{out.name}.parts")
