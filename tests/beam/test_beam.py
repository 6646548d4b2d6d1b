"""csn_jax beam: the parts hold the bits of csn_jax embed, wherever they are made; faults are named by row.

Where Beam is not installed, workers are called one after the other instead, and the tests of Beam itself are skipped.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import fsspec
import numpy as np
import pytest
import tiny

from csn_jax import beam, embed, search
from csn_jax.beam import plan, worker
from csn_jax.beam.worker import Decoder, Rows, Worker, read_rows, write_rows
from csn_jax.data import to_embed
from csn_jax.errors import MachineError, UserError
from csn_jax.store.index import Index
from csn_jax.store.vector_file import read_embeddings

HAS_BEAM = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(not HAS_BEAM, reason="apache_beam is not installed (extra `beam`)")
BAD = {6: "is not a JPEG", 11: "is missing", 41: "truncated or damaged"}  # by row, counted from 1


@pytest.fixture
def in_turns(monkeypatch):
    """Workers without Beam; the list gets the parts that are made."""
    made = []

    def run_pipeline(job, names, options):
        one = Worker(job)
        for name in names:
            one.make(name)
            made.append(name)
        one.close()

    module = types.ModuleType("csn_jax.beam.pipeline")
    module.run_pipeline = run_pipeline
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of one chunk of 16 rows. Chunks are also those of embed: the bits of a vector may depend on its place in a
    call."""
    for module in (plan, worker, to_embed):
        monkeypatch.setattr(module, "CHUNK", 16)


@pytest.fixture
def shop(shop_runs, tmp_path):
    """The shop, with three damaged pictures."""
    for name in ("products.csv", "images", "pictures"):
        place = shop_runs / name
        (shutil.copytree if place.is_dir() else shutil.copy)(place, tmp_path / name)
    (tmp_path / "images/005.webp").write_bytes(b"junk")
    (tmp_path / "images/010.jpg").unlink()
    whole = (tmp_path / "images/040.jpg").read_bytes()
    (tmp_path / "images/040.jpg").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def flags(shop, out="parts"):
    return f"--workdir={shop / 'pictures'}", f"--table={shop / 'products.csv'}", f"--out={shop / out}"


def joined(folder):
    """The parts of a folder as one, and what they leave out."""
    parts = [read_embeddings(path) for path in sorted(folder.glob("*.arrow"))]
    text = (folder / "left_out.jsonl").read_text() if (folder / "left_out.jsonl").exists() else ""
    whole = parts[0]._replace(
        ids=np.concatenate([part.ids for part in parts]),
        vectors=np.concatenate([part.vectors for part in parts]),
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
        digests=np.concatenate([part.digests for part in parts]),
    )
    return whole, [json.loads(line) for line in text.splitlines()]


def assert_same_bits(ours, theirs):
    assert ours.vectors.dtype == theirs.vectors.dtype and ours.vectors.tobytes() == theirs.vectors.tobytes()
    assert ours.ids.tolist() == theirs.ids.tolist() and ours.digests.tobytes() == theirs.digests.tobytes()
    assert list(ours.columns) == list(theirs.columns)
    assert all(ours.columns[name].tolist() == column.tolist() for name, column in theirs.columns.items())
    np.testing.assert_array_equal(ours.masks, theirs.masks)
    for field in ("conditions", "model_sha256", "pictures"):
        assert getattr(ours, field) == getattr(theirs, field)


def test_parts_have_the_bits_of_embed(shop, in_turns, small_parts, capsys):
    """Four parts, of which three leave a picture out; the index of the folder finds what that of the file finds."""
    beam.main([*flags(shop), "--dtype=float16"])
    output = capsys.readouterr()
    assert "holds 57 vectors in 4 parts; 3 of 60 could not be read" in output.out and len(in_turns) == 4
    embed.main([*flags(shop, "one.parquet"), "--dtype=float16"])
    one, (whole, left_out) = read_embeddings(shop / "one.parquet"), joined(shop / "parts")
    assert_same_bits(whole, one)
    assert {item["row"] for item in left_out} == {*BAD}
    for item in left_out:
        assert BAD[item["row"]] in item["fault"] and item["id"].startswith(f"images/{item['row'] - 1:03}.")
        assert f"left out row {item['row']}, {item['id']}, which {item['fault']}" in output.err
    index = Index.open(shop / "parts")
    assert (
        index.search("images/000.png", "colour")[0].tolist()
        == Index.open(shop / "one.parquet").search("images/000.png", "colour")[0].tolist()
    )
    search.main(
        [f"--index={shop / 'parts'}", *flags(shop)[:1], f"--image={shop / 'images/000.png'}", "--condition=colour"]
    )
    assert re.search("^query +images/000.png", capsys.readouterr().out, re.MULTILINE)  # the query is the item


@pytest.mark.slow
def test_urls(shop, in_turns, small_parts):
    """Table, pictures, run and parts in a file system of fsspec; faults are the same as on this machine."""
    memory = fsspec.filesystem("memory")
    memory.put(str(shop), "/shop", recursive=True)
    try:
        url = "memory://shop"
        beam.main([f"--workdir={url}/pictures", f"--table={url}/products.csv", f"--out={url}/parts"])
        before = {path: memory.cat(path) for path in memory.find("/shop/parts")}
        beam.main([f"--workdir={url}/pictures", f"--table={url}/products.csv", f"--out={url}/parts"])
        assert len(in_turns) == 4  # the second time, nothing was left to do
        assert before == {path: memory.cat(path) for path in memory.find("/shop/parts")}
        memory.get("/shop/parts/", str(shop / "copied"), recursive=True)
    finally:
        memory.rm("/shop", recursive=True)
    beam.main(flags(shop))
    (theirs, ours) = joined(shop / "parts"), joined(shop / "copied")
    assert_same_bits(ours[0]._replace(pictures=theirs[0].pictures), theirs[0])
    assert ours[1] == theirs[1] and ours[0].pictures == {}


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_vectors(dtype, shop_runs, tmp_path, in_turns, small_parts):
    words = (f"--workdir={shop_runs / 'vectors'}", f"--table={shop_runs / 'products.parquet'}", f"--dtype={dtype}")
    beam.main([*words, f"--out={tmp_path / 'parts'}"])
    embed.main([*words, f"--out={tmp_path / 'one.parquet'}"])
    ours, theirs = joined(tmp_path / "parts")[0], read_embeddings(tmp_path / "one.parquet")
    if dtype == "int8":  # a scale per part
        np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=np.abs(theirs.vectors).max() / 100)
    else:
        assert_same_bits(ours, theirs)


def test_a_rerun_writes_what_is_missing_or_damaged(shop_runs, tmp_path, in_turns, small_parts, capsys):
    words = (f"--workdir={shop_runs / 'vectors'}", f"--table={shop_runs / 'products.parquet'}")
    out = tmp_path / "parts"
    beam.main([*words, f"--out={out}"])
    before = tiny.contents(out)
    (out / "part-00001-of-00004.arrow").unlink()
    part = out / "part-00002-of-00004.arrow"
    part.write_bytes(part.read_bytes()[:-100])
    in_turns.clear()
    beam.main([*words, f"--out={out}"])
    assert in_turns == ["part-00001-of-00004.arrow", "part-00002-of-00004.arrow"]
    assert {name: content for name, (content, _) in tiny.contents(out).items() if name != ".lock"} == {
        name: content for name, (content, _) in before.items() if name != ".lock"
    }
    assert "2 of 4 parts are finished" in capsys.readouterr().err
    with pytest.raises(UserError, match="with other flags"):
        beam.main([*words, f"--out={out}", "--dtype=float16"])
    with pytest.raises(UserError, match="with other flags"):
        beam.main([f"--workdir={shop_runs / 'pictures'}", f"--table={shop_runs / 'products.csv'}", f"--out={out}"])


def test_a_failing_worker_leaves_whole_parts(shop_runs, tmp_path, in_turns, small_parts, monkeypatch):
    words = (f"--workdir={shop_runs / 'vectors'}", f"--table={shop_runs / 'products.parquet'}")
    beam.main([*words, f"--out={tmp_path / 'parts'}"])
    calls, write = [], worker.storage.write

    def failing(place, content):
        calls.append(place)
        if ".plan" not in place and len(calls) == 7:
            raise OSError(28, "No space left on device", place)
        write(place, content)

    monkeypatch.setattr(worker.storage, "write", failing)
    with pytest.raises(OSError, match="No space"):
        beam.main([*words, f"--out={tmp_path / 'broken'}"])
    names = sorted(os.listdir(tmp_path / "broken"))
    assert names == [".lock", "part-00000-of-00004.arrow", "part-00001-of-00004.arrow"]
    beam.main([*words, f"--out={tmp_path / 'broken'}"])
    assert_same_bits(joined(tmp_path / "broken")[0], joined(tmp_path / "parts")[0])


def test_nothing_readable(shop, in_turns, small_parts):
    for path in (shop / "images").iterdir():
        path.write_bytes(b"junk")
    with pytest.raises(UserError, match="none of the 60 images could be read"):
        beam.main(flags(shop))
    assert os.listdir(shop / "parts") == []


MISTAKES = {
    "no table": ({"table": "none.csv"}, ["none.csv"]),
    "no table at a URL": ({"table": "memory://none/none.csv"}, ["--table=memory://none/none.csv", "not there"]),
    "an unknown protocol": ({"out": "nothing://x"}, ["--out=nothing://x", "nothing"]),
    "a file in place of the folder": ({"out": "products.csv"}, ["products.csv", "not a folder"]),
    "no folder above": ({"out": "none/parts"}, ["the folder", "does not exist"]),
    "other files": ({"out": "others"}, ["others", "x.parquet"]),
    "no run": ({"workdir": "images"}, ["images", "config.json"]),
    "an unknown column": ({"image": "picture"}, ["picture", "--image"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, shop_runs, tmp_path, in_turns, monkeypatch):
    changed, words = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    for name in ("products.csv", "images", "pictures"):
        (tmp_path / name).symlink_to(shop_runs / name)
    (tmp_path / "others").mkdir()
    (tmp_path / "others/x.parquet").write_bytes(b"")
    given = {"workdir": "pictures", "table": "products.csv", "out": "parts"} | changed
    with pytest.raises(UserError) as error:
        beam.main([f"--{name}={value}" for name, value in given.items()])
    assert [word for word in words if word not in str(error.value)] == []
    assert tiny.is_one_sentence(str(error.value).removesuffix(".")) and in_turns == []


def test_without_beam(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "csn_jax.beam.pipeline", raising=False)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"needs Apache Beam.*install csn_jax\[beam\]"):
        beam.main(["--workdir=w", "--table=t.csv", f"--out={tmp_path / 'parts'}"])
    assert os.listdir(tmp_path) == []


def test_rows_round_trip():
    rows = Rows(
        16, ["a", "b", "c"], {"id": ["x", "", "z"], "fault": ["1", "2", "3"]}, ["p", b"\0q", None], None, [None] * 3
    )
    assert read_rows(write_rows(rows)) == rows
    of_vectors = rows._replace(sources=None, inputs=np.eye(2, dtype=np.float32), faults=[None, "has no vector", None])
    read = read_rows(write_rows(of_vectors))
    assert read._replace(inputs=None) == of_vectors._replace(inputs=None)
    np.testing.assert_array_equal(read.inputs, of_vectors.inputs)


def test_a_decoder_lives_on(shop_runs):
    """Between chunks, and after pictures that cannot be read."""
    decoder = Decoder((16, 3, "crop"))
    paths = [str(path) for path in sorted((shop_runs / "images").iterdir())[:5]]
    first = decoder.decode([paths[0], "/none.jpg", b""])
    assert [fault is None for _, fault in first] == [True, False, False]
    again = decoder.decode(paths)
    np.testing.assert_array_equal(again[0][0], first[0][0])
    assert len(again) == 5 and not any(fault for _, fault in again) and decoder.decode([]) == []
    decoder.close()


@needs_beam
def test_on_beam(shop, small_parts, capsys):
    """The direct runner, in this process: the bits of embed, and the side output names what is left out."""
    import apache_beam
    from apache_beam.testing.util import assert_that, equal_to

    from csn_jax.beam.pipeline import LEFT_OUT, WriteParts

    beam.main(flags(shop))
    assert "holds 57 vectors in 4 parts" in capsys.readouterr().out
    embed.main(flags(shop, "one.parquet"))
    assert_same_bits(joined(shop / "parts")[0], read_embeddings(shop / "one.parquet"))
    with plan.planned(beam.cli.parse(beam.Args, flags(shop, "again"))) as planned, apache_beam.Pipeline() as pipeline:
        outputs = pipeline | apache_beam.Create(planned.names) | WriteParts(planned.job)
        rows = outputs[LEFT_OUT] | apache_beam.Map(lambda item: item[0] + 1)
        assert_that(rows, equal_to([*BAD]))
    capsys.readouterr()
    with pytest.raises(UserError, match="beam_pipeline_options.*invalid int value: 'many'"):
        beam.main([*flags(shop, "other"), "--beam_pipeline_options=direct_num_workers=many"])
    assert "usage" not in capsys.readouterr().err


@needs_beam
def test_what_a_worker_raises_is_one_sentence(shop, small_parts, monkeypatch):
    def make(self, name):
        raise MachineError(f"the vector of {name} is not finite; look at that item and at the model.")

    monkeypatch.setattr(Worker, "make", make)
    with pytest.raises(MachineError, match="is not finite") as error:
        beam.main(flags(shop))
    assert tiny.is_one_sentence(str(error.value).removesuffix("."))


@needs_beam
@pytest.mark.slow
def test_killed_workers(shop):
    """Two worker processes of Beam, one of them killed, then the whole command: a rerun ends with the bits of embed."""
    argv = [sys.executable, "-m", "csn_jax.beam", *flags(shop)]
    argv += ["--beam_pipeline_options=direct_running_mode=multi_processing,direct_num_workers=2"]
    for of_beam in (True, False):
        with open(shop / "errors.txt", "w") as errors:
            started = subprocess.Popen(argv, stdout=errors, stderr=errors)
        workers, deadline = [], time.time() + 120
        while time.time() < deadline and started.poll() is None and len(workers) < 2:
            time.sleep(0.2)
            workers = children(started.pid, "sdk_worker_main")
        assert len(workers) == 2
        os.kill(workers[0] if of_beam else started.pid, signal.SIGKILL)
        assert started.wait(timeout=60) == (1 if of_beam else -signal.SIGKILL)
        if of_beam:
            last = [line for line in (shop / "errors.txt").read_text().splitlines() if line.startswith("error")]
            assert len(last) == 1 and "a worker process died" in last[0] and "again to resume" in last[0]
        for pid in workers:  # Beam leaves them, if they had not begun
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for part in (shop / "parts").glob("*.arrow"):
            read_embeddings(part)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    embed.main(flags(shop, "one.parquet"))
    assert_same_bits(joined(shop / "parts")[0], read_embeddings(shop / "one.parquet"))


def children(pid, pattern):
    """The processes below one, whose command line has a pattern."""
    found = []
    for place in os.listdir("/proc"):
        if place.isdigit():
            try:
                with open(f"/proc/{place}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
                with open(f"/proc/{place}/cmdline") as file:
                    words = file.read()
            except OSError:
                continue
            if parent == pid:
                found += [int(place)] if pattern in words and not words.startswith("/bin/sh") else []
                found += children(int(place), pattern)
    return found
