"""Feed damaged files to every reader of untrusted input: it reads, or refuses by our own error, and nothing else.

    python experiments/reliability/fuzz_readers.py --inputs=20000 --reader=all

An input is a whole file with bytes, numbers, words or pieces changed, moved, cut out or doubled; of an archive also a
member, so that its checksum is right. Readers run in a process of their own. A fault is any exception but ours, more
than two seconds, 512 MB, a death (images and fonts are read by workers that may die), and anything that a reader has
no business with, seen by an audit hook: to open a file for writing, to delete, to start a program, to connect, to
import by a pickle. Ends with one line of JSON; exits 1 on any fault, and names the number that makes the input again.
"""

import argparse
import io
import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "data/sources")]

SECONDS, MEMORY = 2.0, 512 << 20
FORBIDDEN = """os.system subprocess.Popen os.exec os.posix_spawn os.fork os.remove os.rename os.mkdir os.rmdir
os.symlink os.link os.truncate shutil.rmtree socket.connect pickle.find_class""".split()
LISTS = ("class_tripletlist_train.txt", "class_tripletlist_val.txt", "class_tripletlist_test.txt")
NUMBERS = [struct.pack(kind, n) for kind in ("<I", "<Q", ">I") for n in (0, 1, 255, 2**31 - 1, 2**31, 2**32 - 1)]
TEXTS = ["", *'null NaN Infinity -1 0 1e999 99999999999999999999 true {} [] " \\ , ; ../x /etc/passwd F32 BF16'.split()]
WORDS = [text.encode() for text in (*TEXTS, "\x00", "\n", "ü\u202e\ufeff", "a" * 5000, "[" * 3000, '{"a":' * 1000)]


class Reader(NamedTuple):
    """name: of its file; seeds: whole files; read: takes the path; dies: whether its process may."""

    name: str
    seeds: list[bytes]
    read: Callable[[Path], Any]
    dies: bool = False


def mutated(seeds: list[bytes], number: int) -> bytes:
    """Input `number`: the same one each time."""
    rng = random.Random(number)
    data = rng.choice(seeds)
    if data.startswith(b"PK") and rng.random() < 0.5:
        return _in_member(data, rng)
    for _ in range(rng.choice((1, 1, 2, 5))):
        data = _changed(data, rng, seeds)
    return data


def _changed(data: bytes, rng: random.Random, seeds: list[bytes]) -> bytes:
    at, more = rng.randrange(len(data) + 1), rng.choice((1, 2, 8, 64, 1000))
    if rng.random() < 0.3:
        at = min(at, rng.randrange(300))  # heads tell lengths
    kind = rng.randrange(10)
    if kind == 0 and data:
        at = min(at, len(data) - 1)
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + data[at + more :]
    if kind == 3:
        return data[:at] + data[at : at + more] * rng.choice((2, 3, 20)) + data[at + more :]
    if kind == 4:
        return data[:at] + rng.randbytes(more) + data[at + more :]
    if kind in (5, 6):
        number = rng.choice(NUMBERS)
        return data[:at] + number + data[at + len(number) :]
    if kind == 7:
        return data[:at] + rng.choice(WORDS) + data[at + rng.choice((0, 1, 4)) :]
    if kind == 8:
        other = rng.choice(seeds)
        return data[:at] + other[rng.randrange(len(other) + 1) :]
    to = rng.randrange(len(data) + 1)
    piece, rest = data[at : at + more], data[:at] + data[at + more :]
    return rest[:to] + piece + rest[to:]


def _in_member(data: bytes, rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(buffer, "w") as out:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        chosen = rng.randrange(len(members))
        for i, (name, content) in enumerate(members):
            if i == chosen:
                if rng.random() < 0.15:
                    continue
                if rng.random() < 0.2:
                    name = rng.choice(("../../escaped", "/escaped", "a/../../escaped", name + "\x00", name[::-1], ""))
                else:
                    content = _changed(content, rng, [content])
            out.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


# ---- readers


def torch_archive() -> Reader:
    import pickle

    import numpy as np
    import torch

    from csn_jax.model.weight_files import read_weights

    class Evil:
        def __reduce__(self):
            return os.system, ("touch escaped",)

    seeds = []
    for new in (True, False):
        for value in (
            {"a.weight": torch.ones(3, 4), "b": torch.arange(5)},
            {"epoch": 3, "state_dict": {"w": torch.ones(2)}},
            {"best": np.float64(1), "args": argparse.Namespace(a={1}), "ema": {"w": torch.ones(2, 3).bfloat16()}},
        ):
            buffer = io.BytesIO()
            torch.save(value, buffer, _use_new_zipfile_serialization=new)
            seeds.append(buffer.getvalue())
    hostile = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(seeds[0])) as archive, zipfile.ZipFile(hostile, "w") as out:
        for info in archive.infolist():
            evil = info.filename.endswith("data.pkl")
            out.writestr(info.filename, pickle.dumps({"a": Evil()}) if evil else archive.read(info))
    seeds += [hostile.getvalue(), pickle.dumps(Evil())]
    return Reader("x.pth", seeds, lambda path: read_weights(str(path), "--init"))


def safetensors() -> Reader:
    import numpy as np

    from csn_jax.model.weight_files import read_weights, to_safetensors

    tensors = {"a.weight": np.ones((3, 4), np.float32), "b": np.arange(5), "c": np.zeros((0, 2), np.float16)}
    seeds = [to_safetensors(tensors, {"made": "by us"}), to_safetensors({"x": np.ones(2, np.float32)}, {})]
    seeds.append(to_safetensors({"half": np.ones(6, np.uint16)}, {}).replace(b'"U16"', b'"BF16"').replace(b"} ", b"}"))
    return Reader("x.safetensors", seeds, lambda path: read_weights(str(path), "--init"))


def weight_index() -> Reader:
    """The index, beside two files that it names."""
    import numpy as np

    from csn_jax.model.weight_files import read_weights, to_safetensors

    names = ("model-1-of-2.safetensors", "model-2-of-2.safetensors")
    parts = {name: to_safetensors({name[6]: np.ones(2, np.float32)}, {}) for name in names}
    index = {"metadata": {"total_size": 16}, "weight_map": {name[6]: name for name in names}}

    def read(path: Path) -> Any:
        _write_beside(path, parts)
        return read_weights(str(path), "--init")

    return Reader("model.safetensors.index.json", [json.dumps(index).encode()], read)


def _write_beside(path: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        descriptor = os.open(path.parent / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(descriptor, content)
        os.close(descriptor)


def vectors(suffix: str) -> Reader:
    import numpy as np

    from csn_jax.config import DataConfig
    from csn_jax.data.columns import Columns
    from csn_jax.data.sources.vectors import read_vectors

    ids, seeds = list("abcdef"), []
    array, objects = np.arange(18, dtype=np.float32).reshape(6, 3), np.array([[{"a": 1}]] * 6, object)
    if suffix == ".npy":
        writers = [
            partial(np.save, arr=one) for one in (array, array.astype(np.float16), np.asfortranarray(array), objects)
        ]
    else:
        writers = [partial(np.savez, vectors=array, ids=np.array(ids)), partial(np.savez, vectors=objects)]
        writers.append(partial(np.savez_compressed, x=array.astype(float)))
    for write in writers:
        write(buffer := io.BytesIO())
        seeds.append(buffer.getvalue())

    def read(path: Path) -> Any:
        columns = Columns(path.with_name("table.csv"), {"id": ids}, None, None)
        return read_vectors(columns, DataConfig(vectors=path.name), ids)

    return Reader(f"vectors{suffix}", seeds, read)


def images() -> Reader:
    import numpy as np
    from PIL import Image

    from csn_jax.data.images import decode_file
    from csn_jax.errors import UserError

    rng, seeds = np.random.default_rng(0), []
    for kind, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("PNG", {"pal": 1}),
        ("AVIF", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
    ):
        image = Image.fromarray(rng.integers(0, 256, (24, 30, 3), np.uint8))
        image = image.convert("P") if options.pop("pal", None) else image
        image.save(buffer := io.BytesIO(), kind, **options)
        seeds.append(buffer.getvalue())

    def read(path: Path) -> None:
        if isinstance(found := decode_file((str(path), 16, 3)), str):
            raise UserError(found)

    return Reader("x.jpg", seeds, read, dies=True)


def fonts() -> Reader:
    import made_fonts
    import matplotlib

    from csn_jax.data.sources.font_faces import Face, list_faces
    from csn_jax.data.sources.fonts import render_face
    from csn_jax.errors import UserError

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = ("cmr10.ttf", "cmtt10.ttf", "DejaVuSansMono.ttf")
    seeds = [(folder / name).read_bytes() for name in names]
    seeds.append(made_fonts.collection(*(made_fonts.opened(name) for name in ("DejaVuSans", "DejaVuSerif"))))
    seeds.append(made_fonts.saved(made_fonts.variable(("Slim", 0.2), ("Wide", 0.9))))

    def read(path: Path) -> None:
        index, instance, _ = list_faces(str(path))[0][-1]
        if isinstance(result := render_face((Face(str(path), "", index, instance), 12)), str):
            raise UserError(result)

    return Reader("x.ttf", seeds, read, dies=True)


def csv_tables() -> Reader:
    """Text of every form, and what its cells mean."""
    seeds = [
        b'image,colour,price\na.png,red,1.5\nb.png,"bl""ue",2\nc.png,,3\n',
        "\ufeffimage;ü\n".encode(),
        b"a\tb\n1\t2\n",
        b"sep=;\r\n;price;tags\r\n0;\"1.299,50 \xe9\";['a', 'b']\r\n1;12 %;{\"a\"}\r\n",
        "id|price\n1|1'299,00 €\n2|NA\n3|(5)\n".encode("utf-16"),
        b'id, "a"\n1, "x\\"y"\n2,"b|c", d\n',
    ]
    return Reader("x.csv", seeds, _attributes_of)


def json_lines() -> Reader:
    seeds = [b'{"a": 1.10, "b": ["x"], "c": [1, 2], "d": {"e": null}}\n{"a": true}\n', b'[{"a": "x"}, {"b": NaN}]']
    return Reader("x.jsonl", seeds, _attributes_of)


def packed_tables() -> Reader:
    """Half of the inputs are damaged behind the gzip, as its checksum would stop all others."""
    import gzip

    seeds = [*csv_tables().seeds, *json_lines().seeds, *arrow_tables().seeds]

    def read(path: Path) -> None:
        if (content := path.read_bytes())[:2] != b"\x1f\x8b":
            path.write_bytes(gzip.compress(content, 1))
        _attributes_of(path)

    return Reader("x.gz", [*seeds, *(gzip.compress(seed) for seed in seeds)], read)


def arrow_tables() -> Reader:
    import pyarrow
    from pyarrow import feather, ipc

    table = pyarrow.table({"a": ["x", None], "n": [1.5, None], "t": [["b"], []], "v": [[1.0, 2.0]] * 2})
    feather.write_feather(table, packed := io.BytesIO())
    with ipc.new_file(plain := io.BytesIO(), table.schema) as writer:
        writer.write_table(table)
    with ipc.new_stream(stream := io.BytesIO(), table.schema) as writer:
        writer.write_table(table)
    return Reader("x.arrow", [file.getvalue() for file in (packed, plain, stream)], _attributes_of)


def _attributes_of(path: Path) -> None:
    from csn_jax.config import DataConfig
    from csn_jax.data.attributes import attribute_of
    from csn_jax.data.columns import read_columns

    columns = read_columns(path, skip_bad=True)
    for name in columns.text:
        attribute_of(columns, name, None, DataConfig())


def parquet_tables() -> Reader:
    import pyarrow
    from pyarrow import parquet

    from csn_jax.data.columns import read_columns

    seeds = []
    for options in ({"compression": "snappy"}, {"compression": "none", "use_dictionary": False}):
        table = pyarrow.table(
            {"image": ["a.png", "b.png", None], "price": [1.5, None, 2.0], "vector": [[1.0, 2.0]] * 3}
        )
        parquet.write_table(table, buffer := io.BytesIO(), **options)
        seeds.append(buffer.getvalue())
    return Reader("x.parquet", seeds, read_columns)


def vector_texts() -> Reader:
    from csn_jax.data.columns import read_columns

    spellings = (
        "[0.1, 0.25]",
        "{1,2}",
        "[0.1 0.25\n 3]",
        "tensor([1., 2.], device='cuda:0')",
        "[np.float32(1), 2]",
        "1,5;2",
    )
    seeds = ["\n".join(["id,vector", *(f'{i},"{text}"' for i in range(4)), '5,""']).encode() for text in spellings]
    seeds.append(("id," + ",".join(f"dim_{i}" for i in range(9)) + "\n" + "1,2,3,4,5,6,7,8,9,10\n" * 3).encode())
    return Reader("x.csv", seeds, lambda path: _vectors_of(read_columns(path)))


def parquet_cells() -> Reader:
    """Vectors in lists of all kinds, and pictures inside a table."""
    import pyarrow
    from pyarrow import parquet

    from csn_jax.data.columns import read_columns
    from csn_jax.data.table_pictures import find_pictures, read_contents

    lists = [[1.0, 2.0], None, [3.0, 4.0]]
    kinds = [
        pyarrow.list_(pyarrow.float32(), 2),
        pyarrow.large_list(pyarrow.float32()),
        pyarrow.list_view(pyarrow.float64()),
    ]
    structs = [{"bytes": b"\x89PNG" * 9, "path": "a.png"}, {"bytes": None, "path": "b.png"}, None]
    images, seeds = (structs, [b"\x89PNG" * 9, b"", None], structs), []
    for kind, image in zip(kinds, images, strict=True):
        table = pyarrow.table({"image": image, "vector": pyarrow.array(lists, kind)})
        parquet.write_table(table, buffer := io.BytesIO(), compression="none")
        seeds.append(buffer.getvalue())

    def read(path: Path) -> None:
        columns = read_columns(path)
        pictures = find_pictures(columns, "image")
        sources = [*pictures.sources(range(len(columns)))]
        assert len(read_contents(path, "image", list(range(len(columns))))) == len(sources)
        _vectors_of(columns)

    return Reader("x.parquet", seeds, read)


def _vectors_of(columns: Any) -> Any:
    from csn_jax.config import DataConfig
    from csn_jax.data.sources.vectors import read_vectors

    return read_vectors(columns, DataConfig(vectors="vector"), [str(row) for row in range(len(columns))])


def _rows() -> Any:
    import numpy as np

    from csn_jax.data.item_set import Condition, Rows

    ids = np.array(list("abcdef"))
    return Rows(np.zeros((6, 2), np.float32), ids, {"k": ids}, (Condition("k", "categorical"),), None)


def triplet_tables() -> Reader:
    from csn_jax.data.own_triplets import read_own_triplets

    seeds = [b"anchor,positive,negative,condition\na,b,c,k\nd,e,f,k\n"]
    seeds.append(b"anchor,positive,negative,condition,split\na,b,c,k,test\n")
    seeds += [b"a,b,c,k\nd,e,f,k\n", b"a b c\nd e f\n", b"a;b;c;test\nd;e;f;train\n"]  # without names
    seeds.append(b"head,winner,loser,worker_id\na,b,c,w1\na,c,b,w1\na,c,b,w2\n")
    return Reader("x.csv", seeds, lambda path: read_own_triplets(path, _rows()))


def triplet_lists() -> Reader:
    from csn_jax.data.own_triplets import read_own_triplets

    def read(path: Path) -> Any:
        names, _, lists = path.read_bytes().partition(b"\x01")
        _write_beside(path, {"filenames.json": names, **dict.fromkeys(LISTS, lists)})
        return read_own_triplets(path.parent, _rows())

    return Reader("both", [b"a\nb\nc\nd\ne\nf\n\x010 1 2\n3 4 5\n"], read)


def _index(suffix: str) -> Reader:
    import numpy as np

    from csn_jax.data.item_set import Condition
    from csn_jax.store.index import Index
    from csn_jax.store.int8 import rounded
    from csn_jax.store.vector_file import Embeddings, write_embeddings

    seeds = []
    for dtype in ("float32", "int8"):
        vectors, scale = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32), None
        if dtype == "int8":
            vectors, scale = rounded(vectors)
        items = Embeddings(
            np.array([f"i{i}" for i in range(20)]), vectors, {"colour": np.array(["red", ""] * 10)},
            (Condition("colour", "categorical"),), np.ones((1, 4), np.float32), "0" * 64, {}, scale=scale,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            write_embeddings(Path(folder) / f"x{suffix}", items)
            seeds.append((Path(folder) / f"x{suffix}").read_bytes())
    return Reader(f"x{suffix}", seeds, Index.open)


def config_json() -> Reader:
    from csn_jax.config import Config
    from csn_jax.runtime.workdir import read_config

    return Reader("config.json", [Config().to_json().encode()], lambda path: read_config(path.parent))


def data_json() -> Reader:
    from csn_jax.runtime.record import read_record

    record = {"source": "table", "conditions": [{"name": "k", "kind": "set"}], "input_shape": [8, 8, 1]}
    record |= {"items": {"train": 5, "test": 3}, "triplets": {"train": 50, "test": 30}, "items_sha256": "0" * 64}
    return Reader("data.json", [json.dumps(record).encode()], lambda path: read_record(path.parent))


READERS = {
    "torch": torch_archive,
    "safetensors": safetensors,
    "weight_index": weight_index,
    "npy": partial(vectors, ".npy"),
    "npz": partial(vectors, ".npz"),
    "images": images,
    "fonts": fonts,
    "csv": csv_tables,
    "json": json_lines,
    "arrow": arrow_tables,
    "gzip": packed_tables,
    "parquet": parquet_tables,
    "vector_texts": vector_texts,
    "parquet_cells": parquet_cells,
    "triplets": triplet_tables,
    "triplet_lists": triplet_lists,
    "index_parquet": partial(_index, ".parquet"),
    "index_npz": partial(_index, ".npz"),
    "config": config_json,
    "record": data_json,
}


# ---- the contest


def read_some(reader: Reader, numbers: range, folder: Path, place: mmap.mmap, told: Path) -> None:
    """A child's life: read inputs one after the other, and leave a line of JSON for each."""
    from csn_jax.errors import MachineError, UserError

    os.chdir(folder)
    armed, path, start = False, folder / "files" / reader.name, peak_memory()

    def hook(event: str, arguments: tuple) -> None:
        if not armed:
            return
        writes = event == "open" and (
            set(str(arguments[1])) & set("wax+") or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        )
        if event in FORBIDDEN or (writes and Path(os.fsdecode(arguments[0])).parent != path.parent):
            raise PermissionError(f"{event} {arguments!r}")

    sys.addaudithook(hook)
    with open(told, "a", buffering=1) as lines:
        for number in numbers:
            place[:8] = struct.pack("<Q", number)
            path.write_bytes(mutated(reader.seeds, number))
            began, fault, armed = time.monotonic(), None, True
            try:
                reader.read(path)
                outcome = "read"
            except (UserError, MachineError) as error:
                outcome = "refused"
                fault = f"more than a line: {error}" if "\n" in str(error) else None
            except BaseException as error:
                outcome, fault = "raised", f"{type(error).__name__}: {error}"[:500]
            armed, spent = False, time.monotonic() - began
            if spent > SECONDS:
                fault = f"took {spent:.1f} s"
            if peak_memory() - start > MEMORY:
                fault = f"took {(peak_memory() - start) >> 20} MB"
            lines.write(json.dumps([number, outcome, fault]) + "\n")
            if fault and "MB" in fault:
                os._exit(0)  # the peak stays; the next life begins anew


def peak_memory() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))


def fuzz(name: str, inputs: int, seed: int, folder: Path) -> dict:
    """Feed one reader: the report."""
    reader, told, place = READERS[name](), folder / "told", mmap.mmap(-1, 8)
    (folder / "files").mkdir()
    numbers, faults, deaths, began = range(seed * 10**9, seed * 10**9 + inputs), [], 0, time.monotonic()
    first = numbers.start
    while first < numbers.stop:
        child = os.fork()
        if not child:
            try:
                with open(os.devnull, "w") as null:
                    os.dup2(null.fileno(), 2)  # what libraries print
                read_some(reader, range(first, numbers.stop), folder, place, told)
            finally:
                os._exit(0)
        at, since, status = first, time.monotonic(), None
        while status is None:
            ended, state = os.waitpid(child, os.WNOHANG)
            if ended:
                status = os.waitstatus_to_exitcode(state)
            elif (now := struct.unpack("<Q", place[:8])[0]) != at:
                at, since = now, time.monotonic()
            elif time.monotonic() - since > 5 * SECONDS:  # in C, where no timer of Python's reaches
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                faults.append(f"input {at} hangs")
                status = 0
            else:
                time.sleep(0.01)
        at = struct.unpack("<Q", place[:8])[0]
        if status != 0 and not reader.dies:
            faults.append(f"input {at} ended the process with {status}")
        deaths += status != 0
        first = at + 1
    outcomes: dict[str, int] = {}
    for line in told.read_text().splitlines():
        number, outcome, fault = json.loads(line)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if fault:
            faults.append(f"input {number}: {fault}")
    escaped = [str(path) for path in (folder / "escaped", Path("/escaped")) if path.exists()]
    faults += [f"{path} was written" for path in escaped]
    minutes = round((time.monotonic() - began) / 60, 1)
    return {"reader": name, "inputs": inputs, **outcomes, "died": deaths, "minutes": minutes, "faults": faults[:50]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=300, help="of each reader")
    parser.add_argument("--reader", choices=("all", *READERS), default="all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    reports = []
    for name in READERS if args.reader == "all" else (args.reader,):
        with tempfile.TemporaryDirectory(prefix="fuzz_readers_") as folder:
            reports.append(fuzz(name, args.inputs, args.seed, Path(folder)))
        print(json.dumps(reports[-1]), file=sys.stderr)
    faults = [f"{report['reader']}: {fault}" for report in reports for fault in report["faults"]]
    print(json.dumps({"inputs": args.inputs, "seed": args.seed, "readers": reports, "faults": faults}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
