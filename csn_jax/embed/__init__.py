"""Embed images, a table or a run's items into one file of vectors.

    csn_jax embed --workdir=runs/quickstart --split=test --out=glyphs.parquet
    csn_jax embed --workdir=runs/products --table=products.csv --out=products.parquet

The file is for csn_jax search, for vector stores (--by_condition) or for training (--features). Rerun the same command
to resume.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from csn_jax import cli
from csn_jax.errors import MachineError, UserError

if TYPE_CHECKING:
    import numpy as np

    from csn_jax.data.to_embed import ToEmbed
    from csn_jax.model.run import Run

TOLD = 20  # unreadable images named one by one


@dataclass(frozen=True)
class Args:
    workdir: str
    """The folder of a run of csn_jax train, or of an imported model."""
    out: str
    """The file to write: FILE.parquet or FILE.npz."""
    images: str = ""
    """Embed the images in this folder and below it; their ids are their paths from there."""
    table: str = ""
    """Embed the rows of this CSV or Parquet table: its images, or its vectors for a model of vectors. The other columns
    become attributes to show and to filter by."""
    split: Literal["", "train", "validation", "test", "all"] = ""
    """Embed the run's own items: of one split, or all."""
    image: str = ""
    """The table's column of image paths, relative to its folder. Empty: as in the run's own table, or image."""
    id: str = ""
    """The table's column of ids. Empty: as in the run's own table, or id if there is one, else the image paths."""
    vectors: str = ""
    """The table's column of vectors, or a file beside it. Empty: as in the run's own table."""
    dtype: Literal["float32", "float16", "int8"] = "float32"
    """The type of the stored vectors. int8 stores whole numbers, and one scale per dimension."""
    by_condition: bool = False
    """Add a column vec_NAME per condition, for vector stores: the vector times the mask, without the dimensions of
    weight 0."""
    features: bool = False
    """Store the input of the last linear layer instead of the embedding: vectors for --config=features to train on."""
    to_qdrant: str = ""
    """Also store the vectors in Qdrant: a folder, in which it runs embedded, or the http(s) URL of a server, whose key
    is read from the environment variable QDRANT_API_KEY."""
    collection: str = ""
    """The Qdrant collection. Empty: the name of the file."""
    rebuild: bool = False
    """Replace the file if it exists, and the collection if it holds other vectors."""


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv)
    given = [name for name in ("images", "table", "split") if getattr(args, name)]
    if len(given) != 1:
        what = "--" + " and --".join(given) if given else "nothing to embed"
        raise UserError(f"{what} is given; give one of --images=FOLDER, --table=FILE and --split=test.")
    if args.features and args.by_condition:
        raise UserError("--by_condition is given with --features, which no condition masks; leave out one of them.")
    if args.features and args.dtype == "int8":
        raise UserError("--dtype=int8 is given with --features, which training reads without a scale; take float16.")
    if args.features and args.to_qdrant:
        raise UserError("--to_qdrant is given with --features, which no condition masks; leave out one of them.")
    if args.collection and not args.to_qdrant:
        raise UserError("--collection is given without --to_qdrant; add that, or leave it out.")

    from csn_jax.model.run import open_run
    from csn_jax.runtime.workdir import locked
    from csn_jax.runtime.writer import say
    from csn_jax.store.int8 import rounded
    from csn_jax.store.vector_file import Embeddings, check_columns, check_path, write_embeddings

    out = Path(args.out).expanduser().absolute()
    check_path(out, "--out")
    if not out.parent.is_dir():
        raise UserError(f"--out={args.out}: there is no folder {out.parent}; make it first, or give another.")
    table = Path(args.table).expanduser()
    if args.table and out.exists() and table.is_file() and out.samefile(table):
        raise UserError(f"--out={args.out} is the table itself; give another name.")
    run = open_run(args.workdir)
    model, to_embed = run.model(), _to_embed(args, run)
    check_columns(to_embed.columns)
    conditions = () if args.features else run.record.conditions
    masks = model.masks[:0] if args.features else model.masks
    made_from = _sha256_of_json(
        [model.sha256, args.features, args.dtype, args.by_condition, masks.tolist(), to_embed.made_from]
    )
    if args.to_qdrant:  # before hours of embedding
        from csn_jax.store.qdrant import check_place

        check_place(args.to_qdrant, args.collection or out.stem, model.sha256, rebuild=args.rebuild)
    parts = out.with_name(f".{out.name}.parts")
    if out.exists() and not args.rebuild:
        ids = _check_finished(out, made_from)
        if parts.is_dir():  # killed when the file was whole and its parts not yet gone
            with locked(parts, "--out"):
                shutil.rmtree(parts)
        print(f"{out} holds these {len(ids):,} vectors already; nothing to embed")
        if args.to_qdrant:
            _to_qdrant(args, out)
        _next_step(args, ids[0], model.conditions[0])
        return
    for note in to_embed.notes:
        say(note)
    try:
        parts.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written ({error.strerror}); give another place.") from None
    with locked(parts, "--out"):
        function = model.features if args.features else model.embed
        try:
            vectors, kept, left_out = _in_parts(parts, made_from, to_embed, function, args.dtype)
        except UserError:  # the same command would not get further
            shutil.rmtree(parts)
            raise
        scale = None
        if args.dtype == "int8":
            vectors, scale = rounded(vectors)
        write_embeddings(
            out,
            Embeddings(
                ids=to_embed.ids[kept],
                vectors=vectors,
                columns={name: column[kept] for name, column in to_embed.columns.items()},
                conditions=conditions,
                masks=masks if conditions else masks.reshape(0, 0).repeat(vectors.shape[1], axis=1),
                model_sha256=model.sha256,
                pictures=to_embed.pictures,
                made_from=made_from,
                scale=scale,
            ),
            by_condition=args.by_condition,
        )
        shutil.rmtree(parts)
    what = "features" if args.features else f"dimensions, with the masks of {', '.join(model.conditions)}"
    told = f"; {left_out:,} of {len(to_embed.ids):,} could not be read" if left_out else ""
    print(f"{out} holds {len(vectors):,} vectors of {vectors.shape[1]:,} {what}{told}")
    if args.to_qdrant:
        _to_qdrant(args, out)
    _next_step(args, to_embed.ids[kept][0], model.conditions[0])


def _next_step(args: Args, item: str, condition: str) -> None:
    from csn_jax.runtime.writer import next_step

    if args.features and args.out.endswith(".parquet"):
        next_step("train", "--config=features", f"--config.data.path={args.out}")
    elif args.features:
        next_step("python", "-c", f"import numpy; print(numpy.load({args.out!r})['vectors'].shape)")
    elif args.to_qdrant:
        collection = args.collection or Path(args.out).stem
        place = (f"--qdrant={args.to_qdrant}", f"--collection={collection}")
        next_step("search", *place, f"--id={item}", f"--condition={condition}")
    else:
        next_step("search", f"--index={args.out}", f"--id={item}", f"--condition={condition}")


def _to_qdrant(args: Args, out: Path) -> None:
    from csn_jax.store.qdrant import upload
    from csn_jax.store.vector_file import read_embeddings

    embeddings, name = read_embeddings(out), args.collection or out.stem
    sent = upload(embeddings, args.to_qdrant, name, rebuild=args.rebuild)
    already = "" if sent else " already"
    print(f"{args.to_qdrant} holds these {len(embeddings.ids):,} vectors{already}, in the collection {name}")


def _to_embed(args: Args, run: "Run") -> "ToEmbed":
    from csn_jax.data import to_embed
    from csn_jax.embed.items import from_split

    input_shape = run.record.input_shape
    if args.split:
        return from_split(run, args.split)
    if args.images:
        if len(input_shape) == 1:
            raise UserError(
                f"--images={args.images}: the model of {run.workdir} embeds vectors of {input_shape[0]} numbers and no "
                "images; give a --table of them."
            )
        return to_embed.from_folder(Path(args.images).expanduser(), *input_shape[1:])
    data = to_embed.overridden(run.config.data, args.image, args.id, args.vectors)
    return to_embed.from_table(Path(args.table).expanduser(), data, input_shape)


def _check_finished(out: Path, made_from: str) -> "np.ndarray":
    """The ids in a file of the same items and model.

    Raises:
        UserError: when the file is anything else, or half of it.
    """
    from csn_jax.store.vector_file import read_embeddings

    try:
        found = read_embeddings(out)
    except UserError as error:
        if "--rebuild" in str(error):
            raise
        raise UserError(
            f"--out={out} is there and no file of embed's; give another, or --rebuild to replace it."
        ) from None
    if found.made_from != made_from:
        raise UserError(
            f"--out={out} is there and was made of other items, by another model or with other flags; give another, or "
            "--rebuild to replace it."
        )
    return found.ids


def _in_parts(
    folder: Path, made_from: str, to_embed: "ToEmbed", function: Callable[["np.ndarray"], "np.ndarray"], dtype: str
) -> tuple["np.ndarray", "np.ndarray", int]:
    """Embed chunk after chunk, each into a file of its own, so that a killed command goes on from there.

    Returns:
        (vectors [M, D] memory-mapped, kept [M] positions of their items, how many items were left out).

    Raises:
        UserError: when no item could be read, or float16 is too small for the vectors.
        MachineError: when a vector is not finite.
    """
    import numpy as np

    from csn_jax.data.to_embed import CHUNK
    from csn_jax.runtime.workdir import full_disk_told, write_atomically
    from csn_jax.runtime.writer import Progress, say

    plan, n = folder / "plan", len(to_embed.ids)
    if not plan.is_file() or plan.read_text() != made_from:  # of other items, or of none yet
        for old in folder.glob("*.npz"):
            old.unlink()
        write_atomically(plan, made_from.encode())
    names = [folder / f"{first // CHUNK:06}.npz" for first in range(0, n, CHUNK)]
    done = next((place for place, name in enumerate(names) if _read_part(name) is None), len(names))
    if done:
        say(f"going on after {min(done * CHUNK, n):,} of {n:,}")
    left_out, shapes = 0, []
    unit = "image" if to_embed.pictures else "vector"
    with (
        full_disk_told(folder),
        closing(Progress("embedding", n, min(done * CHUNK, n), unit, compiles=True)) as progress,
    ):
        chunks = to_embed.chunks(done * CHUNK)
        for place, name in enumerate(names):
            ids = to_embed.ids[place * CHUNK : (place + 1) * CHUNK].tolist()
            if place < done:
                vectors, faults = _read_part(name)
            else:
                inputs, faults = next(chunks)
                vectors = function(inputs) if len(inputs) else np.zeros((0, 0), np.float32)
                vectors = _checked(vectors, [one for one, fault in zip(ids, faults, strict=True) if not fault], dtype)
                buffer = io.BytesIO()
                np.savez(buffer, vectors=vectors, faults=np.array(json.dumps(faults)))
                write_atomically(name, buffer.getvalue())
                progress.advance(len(ids))
            for one, fault in zip(ids, faults, strict=True):
                if fault:
                    left_out += 1
                    if left_out <= TOLD:
                        say(f"left out {one}, which {fault}")
            shapes.append(vectors.shape)
        if left_out > TOLD:
            say(f"left out {left_out - TOLD:,} more")
        if left_out == n:
            raise UserError(f"none of the {n:,} images could be read; give others.")
        width = max(shape[1] for shape in shapes)
        together = np.lib.format.open_memmap(folder / "vectors.npy", "w+", vectors.dtype, (n - left_out, width))
        kept = np.empty(n - left_out, int)
        row = 0
        for place, name in enumerate(names):
            vectors, faults = _read_part(name)
            those = slice(row, row + len(vectors))
            together[those] = vectors
            kept[those] = place * CHUNK + np.flatnonzero([not fault for fault in faults])
            row += len(vectors)
    return together, kept, left_out


def _checked(vectors: "np.ndarray", ids: list[str], dtype: str) -> "np.ndarray":
    import numpy as np

    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(wrong):
        raise MachineError(f"the vector of {ids[wrong[0]]} is not finite; look at that item and at the model.")
    if dtype == "float16" and np.abs(vectors).max(initial=0) > np.finfo(np.float16).max:
        raise UserError("--dtype=float16 reaches to 65,504 and a vector has greater numbers; leave it out.")
    return vectors.astype("float32" if dtype == "int8" else dtype)  # int8's scale wants all vectors


def _read_part(path: Path) -> tuple["np.ndarray", list[str | None]] | None:
    """(vectors, faults) of a chunk, or None where its file is missing or not whole."""
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as part:  # whose archive has a checksum of each array
            return part["vectors"], json.loads(str(part["faults"][()]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _sha256_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
