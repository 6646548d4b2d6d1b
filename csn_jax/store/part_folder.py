"""A folder of part files as one index. The parts are files of csn_jax embed and of csn_jax.beam."""

import hashlib
import io
from pathlib import Path

import numpy as np

from csn_jax.errors import UserError
from csn_jax.store.arrow_file import ArrowFile, open_arrow, write_arrow
from csn_jax.store.embeddings import Embeddings, from_head
from csn_jax.store.parts import NUMBERED, Parts, Vectors
from csn_jax.store.texts import Texts
from csn_jax.store.vector_file import SUFFIXES, DamagedFile, ForeignFile, head_text, read_embeddings
from csn_jax.text import first_sentence, listed

FEW = 1 << 20  # items up to which all ids are compared when a folder is opened, in a tenth of a second


def open_parts(folder: Path) -> Embeddings:
    """The items of all part files in a folder, in the order of their names. Texts and vectors are read when they are
    asked for, and are compared with their digests then.

    Raises:
        ForeignFile: when no file in it is one of csn_jax.
        UserError: when a part is missing, damaged, or of another kind than the first.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))
    files = [_open(path) for path in paths]
    if not any(files):
        raise ForeignFile(
            f"{folder} holds no part file of csn_jax; give a folder of files that csn_jax embed or csn_jax.beam wrote."
        )
    _check_numbers(folder, [path.name for path in paths])
    for path, file in zip(paths, files, strict=True):
        if file is None:
            raise UserError(f"{path} was not written by csn_jax, but the parts beside it were; move it away.")
        if what := _difference(files[0].head, file.head):
            raise UserError(f"{path} holds {what} than {files[0].path.name}; embed it as the others, or move it away.")
    head, parts = files[0].head, Parts(files, _damaged)
    _check_ids(files, parts)
    one_place = all(file.head["pictures"] == head["pictures"] for file in files)
    vectors = Vectors(parts, head["shape"][1], head["dtype"])
    items = from_head(head, Texts(parts, "id"), vectors, [Texts(parts, name) for name in head["columns"]])
    made_from = hashlib.sha256("".join(file.head["sha256"] for file in files).encode()).hexdigest()
    return items._replace(scale=None, made_from=made_from, pictures=head["pictures"] if one_place else {})


def _damaged(path: Path, error: Exception) -> DamagedFile:
    reason = f"{type(error).__name__}: {first_sentence(error)}"
    return DamagedFile(f"{path} is half-written or damaged ({reason}); remove it and run what wrote it again.")


def _check_numbers(folder: Path, names: list[str]) -> None:
    """Raise UserError unless numbered parts are all there."""
    numbers = [tuple(map(int, found.groups())) for name in names if (found := NUMBERED.search(name))]
    totals = {total for _, total in numbers}
    if len(totals) > 1:
        raise UserError(
            f"{folder} holds parts of several sets (of {listed(map(str, sorted(totals)))}); keep one set per folder."
        )
    missing = sorted(set(range(max(totals, default=0))) - {number for number, _ in numbers})
    if missing:
        (total,) = totals
        raise UserError(
            f"{folder} lacks part {missing[0]:05}-of-{total:05} ({len(missing):,} of {total:,} parts are missing); run "
            "csn_jax.beam again to write it."
        )


def _check_ids(files: list[ArrowFile], parts: Parts) -> None:
    """Raise UserError if two parts hold the same item, which would be found twice. Of up to FEW items all ids are
    compared, of more only whole parts."""
    import pyarrow
    from pyarrow import compute

    many = len(parts) > FEW
    if not many:
        batches = [batch["id"] for file in files for batch in file.batches]
        try:
            for ids in batches:
                ids.validate(full=True)  # Arrow trusts the offsets of a file, and reads outside of it
            if compute.count_distinct(pyarrow.chunked_array(batches, "string")).as_py() == len(parts):
                return
        except pyarrow.ArrowException:  # damage, which is reported when the ids are read
            return
        parts.each(parts.batch)  # damage may make one id of two, and is reported first
    seen: dict[str | bytes, str] = {}
    for file in files:
        for name in file.digests[:1] if many else [name for batch in file.batches for name in batch["id"].to_pylist()]:
            if (other := seen.setdefault(name, file.path.name)) != file.path.name:
                what = "the same items" if many else repr(name)
                raise UserError(
                    f"{file.path} and {other} both hold {what}, which would be found twice; move away the part that is "
                    "out of date."
                )


def _open(path: Path) -> ArrowFile | None:
    """A part file, or None if another program wrote it. Parquet and npz are read, and become Arrow in memory."""
    if path.suffix == ".arrow":
        try:
            return open_arrow(path)
        except Exception as error:  # damage raises several types
            raise _damaged(path, error) from None
    try:
        items = read_embeddings(path)
    except ForeignFile:
        return None
    content = io.BytesIO()
    write_arrow(content, items, head_text(items))
    return open_arrow(path, content.getbuffer())


def _difference(first: dict, other: dict) -> str:
    """What keeps two files from being one index; empty if nothing does."""
    if first["model_sha256"] != other["model_sha256"]:
        return f"vectors of another model ({other['model_sha256'][:12]})"
    if first["conditions"] != other["conditions"] or not np.array_equal(first["masks"], other["masks"]):
        return "other conditions or masks"
    if first.get("maps") != other.get("maps"):
        return "other maps"
    if first["columns"] != other["columns"]:
        return f"other columns ({listed(other['columns']) or 'none'})"
    if first["dtype"] != other["dtype"] or first["shape"][1] != other["shape"][1]:
        return f"other vectors ({other['shape'][1]} of {other['dtype']})"
    return ""
