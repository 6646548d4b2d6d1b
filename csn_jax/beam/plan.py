"""The plan of a pipeline: the rows of each part in a file of its own, so that what Beam sends around stays small; the
parts that are finished; and the summary at the end."""

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from csn_jax.beam import storage
from csn_jax.beam.worker import Job, LeftOut, Rows, write_rows
from csn_jax.data import to_embed
from csn_jax.data.to_embed import CHUNK, ToEmbed
from csn_jax.errors import MachineError, UserError
from csn_jax.model.chunks import digest_of_request
from csn_jax.model.run import Run, open_run
from csn_jax.runtime.workdir import locked
from csn_jax.store.arrow_file import read_head
from csn_jax.store.embeddings import Embeddings
from csn_jax.store.vector_file import SUFFIXES, check_columns

if TYPE_CHECKING:
    from csn_jax.beam import Args

PARTS, MOST = 256, 1 << 16  # parts of a table, unless that makes more rows than this per part
NAMED = 20  # items left out that are named one by one; all are in a file
PLAN = ".plan"  # folder in the folder of parts, while the pipeline runs
OTHER = "give another --out, or remove it."


class Summary(NamedTuple):
    """What the parts hold. lines: what was left out."""

    n_items: int
    unread: str
    first_id: str
    lines: list[str]


class Plan(NamedTuple):
    """job: for the workers. names: of the parts to write, of all. ids: of all items."""

    job: Job
    names: list[str]
    all_names: list[str]
    ids: np.ndarray
    unit: str
    notes: tuple[str, ...]

    def finish(self) -> Summary:
        """Check that all parts are there, and list what they leave out in left_out.jsonl. A UserError if nothing could
        be read; no part is left then."""
        n_items, left_out = 0, []
        for number, name in enumerate(self.all_names):
            found = _part(self.job, name, _share(len(self.ids), len(self.all_names), number))
            if found is None:
                raise MachineError(f"{self.job.out} lacks {name} or it is damaged; run the same command again.")
            n_items, left_out = n_items + found[0], left_out + found[1]
        if not n_items:
            for name in self.all_names:
                storage.remove(storage.below(self.job.out, name))
            raise UserError(f"none of the {len(self.ids):,} {self.unit}s could be read; give others.")
        _list_left_out(storage.below(self.job.out, "left_out.jsonl"), left_out)
        gone = {item for _, item, _ in left_out}
        lines = [f"left out row {row + 1}, {item}, which {fault}" for row, item, fault in left_out[:NAMED]]
        if len(left_out) > NAMED:
            lines.append(f"left out {len(left_out) - NAMED:,} more, which left_out.jsonl beside the parts names")
        unread = f"; {len(left_out):,} of {len(self.ids):,} could not be read" if left_out else ""
        return Summary(n_items, unread, next(item for item in self.ids.tolist() if item not in gone), lines)


def _list_left_out(place: str, left_out: list[LeftOut]) -> None:
    if left_out:
        objects = ({"row": row + 1, "id": item, "fault": fault} for row, item, fault in left_out)
        storage.write(place, "".join(json.dumps(o, ensure_ascii=False) + "\n" for o in objects).encode())
    else:
        storage.remove(place)


@contextmanager
def planned(args: "Args") -> Iterator[Plan]:
    """Read the table, and write the rows of each part that is not finished. A UserError for what cannot be read, or an
    --out that holds anything else. The lock of a folder is held until the end."""
    with ExitStack() as until_the_end:
        folder, folder_of_run = (
            Path(until_the_end.enter_context(tempfile.TemporaryDirectory())).resolve() for _ in range(2)
        )
        with storage.reported(args.workdir, "--workdir"):
            run = open_run(storage.local_copy(args.workdir, folder_of_run))
        model = run.model()
        items = _items(args, run, folder)
        check_columns(items.columns)
        out = args.out if storage.is_url(args.out) else str(_made(args.out, until_the_end))
        n_parts = math.ceil(len(items.ids) / _rows_per_part(len(items.ids)))
        made_from = digest_of_request(model, items.made_from, args.dtype, features=False, by_condition=False)
        empty = Embeddings(
            ids=np.zeros(0, object),
            vectors=np.zeros((0, model.width), "float32" if args.dtype == "int8" else args.dtype),
            columns={},
            conditions=run.record.conditions,
            masks=model.masks,
            model_sha256=model.sha256,
            pictures={} if storage.is_url(args.table) else items.pictures,
            made_from=hashlib.sha256(f"{made_from} {n_parts}".encode()).hexdigest(),
            maps=model.maps,
        )
        workdir = args.workdir if storage.is_url(args.workdir) else str(run.workdir)
        form = run.config.preprocess.form if items.sources is not None else None
        job = Job(workdir, out, storage.below(out, PLAN), args.dtype, form, empty)
        all_names = [f"part-{number:05}-of-{n_parts:05}.arrow" for number in range(n_parts)]
        with storage.reported(args.out, "--out"):
            names = _to_do(job, all_names, len(items.ids))
            storage.remove(job.plan)
            until_the_end.callback(storage.remove, job.plan)
            for name in names:
                rows = _share(len(items.ids), n_parts, all_names.index(name))
                storage.write(storage.below(job.plan, name), write_rows(_rows(items, rows)))
        yield Plan(job, names, all_names, items.ids, items.unit, items.notes)


def _items(args: "Args", run: Run, folder: Path) -> ToEmbed:
    """The rows of the table. Of one at a URL, pictures are URLs too."""
    data = to_embed.overridden(run.config.data, args.image, args.id, args.vectors)
    with storage.reported(args.table, "--table"):
        table = storage.local_copy(args.table, folder)
    items = to_embed.from_table(table, data, run.record.input_shape, run.config.preprocess.form)
    if not storage.is_url(args.table) or items.sources is None:
        return items
    here, there = str(folder), args.table.rstrip("/").rpartition("/")[0]

    def moved(source: object, fault: str | None) -> tuple[object, str | None]:
        if isinstance(source, Path):
            return storage.below(there, source.relative_to(here).as_posix()), fault
        return source, fault and fault.replace(here, there)

    return items._replace(sources=[moved(*pair) for pair in items.sources])


def _made(out: str, until_the_end: ExitStack) -> Path:
    """A folder on this machine, made and locked."""
    path = Path(out).expanduser().absolute()
    if not path.parent.is_dir():
        raise UserError(f"--out={out}: the folder {path.parent} does not exist; make it first, or give another.")
    if path.exists() and not path.is_dir():
        raise UserError(f"--out={out} is not a folder; give the folder of the parts.")
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={out} cannot be made ({error.strerror}); choose another path.") from None
    until_the_end.enter_context(locked(path, "--out"))
    return path


def _rows_per_part(n: int) -> int:
    """So many that there are PARTS parts, in whole chunks: the calls of a part are those of csn_jax embed."""
    return min(MOST, CHUNK * max(1, math.ceil(n / PARTS / CHUNK)))


def _share(n: int, n_parts: int, number: int) -> range:
    """The rows of a part."""
    size = _rows_per_part(n)
    return range(number * size, min(n, (number + 1) * size))


def _to_do(job: Job, all_names: list[str], n: int) -> list[str]:
    """The parts that are not written yet. A UserError if the folder holds others."""
    present = [name for name in storage.names_in(job.out) if name.endswith(SUFFIXES) and not name.startswith(".")]
    for name in present:
        if name not in all_names or (head := _head(job, name)) and head[0]["made_from"] != job.empty.made_from:
            other = "of other items, by another model or with other flags"
            raise UserError(f"--out={job.out} holds {name}, which was made {other}; {OTHER}")
    shares = [_share(n, len(all_names), number) for number in range(len(all_names))]
    return [n for n, rows in zip(all_names, shares, strict=True) if n not in present or _part(job, n, rows) is None]


def _head(job: Job, name: str) -> tuple[dict, list[LeftOut]] | None:
    """The head of a part; None if it is missing or damaged."""
    try:
        with storage.open_file(storage.below(job.out, name)) as file:
            return read_head(file)
    except Exception:  # damage raises several types: the part is written again
        return None


def _part(job: Job, name: str, rows: range) -> tuple[int, list[LeftOut]] | None:
    """(the number of items in a part of these rows, what it leaves out); None if it is missing or damaged."""
    if (found := _head(job, name)) is None or found[0]["made_from"] != job.empty.made_from:
        return None
    n_items, left_out = found[0]["shape"][0], found[1]
    return (n_items, left_out) if n_items + len(left_out) == len(rows) else None


def _rows(items: ToEmbed, rows: range) -> Rows:
    places = np.arange(rows.start, rows.stop)
    part = items.only(places)
    columns = {name: column.tolist() for name, column in part.columns.items()}
    if items.sources is None:
        chunks = [*items.chunks(places)]
        inputs = np.concatenate([np.asarray(inputs, np.float32) for inputs, _ in chunks])
        faults = [fault for _, of_chunk in chunks for fault in of_chunk]
        return Rows(rows.start, part.ids.tolist(), columns, None, inputs, faults)
    pairs = items.sources[rows.start : rows.stop]
    sources = [_plain(source) for source, _ in pairs]
    return Rows(rows.start, part.ids.tolist(), columns, sources, None, [fault for _, fault in pairs])


def _plain(source: object) -> str | bytes | None:
    """A source as a path, a URL or bytes."""
    return (
        source
        if source is None or isinstance(source, str)
        else str(source)
        if isinstance(source, Path)
        else source.as_py()
    )
