"""examples/serve: answers equal those of Index, mistakes are answered, a new index is swapped in, nothing is lost."""

import base64
import http.client
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.metadata import requires
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import shop
from PIL import Image
from small_index import clumps, sliced

import csn_jax
from csn_jax import embed
from csn_jax.data.images import decode_file
from csn_jax.model.run import open_run
from csn_jax.port.exporting import export_file
from csn_jax.store.vector_file import read_embeddings, write_embeddings

SERVE = Path(__file__).parents[1] / "examples" / "serve"


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_preprocess_reads_as_embed_does(shop_runs, fit):
    """From a path, bytes and a PIL image; in colour and grey."""
    for path in sorted((shop_runs / "images").iterdir())[:3]:
        for channels in (1, 3):
            expected = decode_file((str(path), 16, channels, fit))
            with Image.open(path) as image:
                for picture in (path, str(path), path.read_bytes(), image):
                    np.testing.assert_array_equal(csn_jax.preprocess(picture, 16, channels, fit), expected)
    for picture, options, words in (
        ("nowhere.png", (16,), "nowhere.png is missing"),
        (b"no image", (16,), "the picture is not a JPEG"),
        (7, (16,), "the picture is a int"),
        (path, (16, 2), "1 or 3 channels"),
        (path, (16, 3, "stretch"), "crop or pad"),
    ):
        with pytest.raises(csn_jax.UserError, match=words):
            csn_jax.preprocess(picture, *options)


def test_preprocess_imports_no_jax():
    code = "import sys, csn_jax; csn_jax.preprocess; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


LEAN = """
import sys
class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[4:]:
            raise ImportError(f"{name} is not in requirements.txt")
sys.meta_path.insert(0, Lacking())
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import app
catalogue = app.Catalogue(Path(sys.argv[2]), app.Encoder(Path(sys.argv[3])))
index = catalogue.served.index
index.search(index.vectors[:1], {"colour": 1}, 3, filters=["price<50"])
assert catalogue.encoder.embed(Path(index.items.pictures["root"], index.ids[0]).read_bytes()).shape == (6,)
"""


@pytest.mark.slow
def test_the_service_needs_what_its_requirements_say(files):
    """Of what csn_jax needs, the image lacks all that requirements.txt does not name."""
    own = {re.split("[>=<]", line)[0] for line in (SERVE / "requirements.txt").read_text().split()}
    needs = {re.split("[>=<;[ ]", line)[0].partition(" ")[0] for line in requires("csn_jax") if "extra ==" not in line}
    assert len(needs) > 10 and own & needs == {"numpy", "pillow", "pyarrow"}
    modules = {
        "importlib-resources": "importlib_resources",
        "orbax-checkpoint": "orbax",
        "tensorflow-cpu": "tensorflow",
    }
    lacking = {modules.get(name.replace("_", "-"), name.replace("-", "_")) for name in needs - own}
    assert {"jax", "tensorflow", "flax"} <= lacking
    command = [sys.executable, "-c", LEAN, str(SERVE), *map(str, files), *lacking]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_dockerfile():
    """What a builder would refuse, or a reader regret: it is not built here."""
    text = (SERVE / "Dockerfile").read_text()
    lines = [line.split(maxsplit=1) for line in text.replace("\\\n", " ").splitlines() if line and line[0] != "#"]
    words = [word for word, _ in lines]
    given = dict(lines)
    assert {*words} <= {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "EXPOSE", "HEALTHCHECK", "CMD"}
    assert words[0] == "FROM" and words[-1] == "CMD" and words.count("CMD") == words.count("FROM") == 1
    assert re.fullmatch(r"python:3\.1\d-slim-\w+", given["FROM"])  # a version of Python and of Debian
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in ("RUN", "COPY"))
    assert given["USER"] != "root" and f"useradd --create-home {given['USER']}" in text
    copied = [name for word, names in lines if word == "COPY" for name in names.split()[:-1]]
    wheel = next(name for name in copied if not (SERVE / name).is_file())
    assert wheel == "csn_jax-*.whl" and "pip wheel --no-deps --wheel-dir=examples/serve ." in text
    assert {*copied} == {"app.py", "requirements.txt", wheel}
    command = json.loads(given["CMD"])
    assert command[:2] == ["uvicorn", "app:app"] and command[command.index("--port") + 1] == given["EXPOSE"]
    assert f":{given['EXPOSE']}/healthz" in json.loads(given["HEALTHCHECK"].removeprefix("CMD"))[-1]
    names = {pair.partition("=")[0] for word, rest in lines if word == "ENV" for pair in rest.split()}
    assert names == {"CSN_INDEX", "CSN_MODEL", "OPENBLAS_NUM_THREADS"}
    assert all(f'"{name}"' in (SERVE / "app.py").read_text() for name in names if name.startswith("CSN_"))


def test_a_folder_of_parts(tmp_path):
    """Answers are those of the index, by id too. A part that is replaced, or a link to another folder, is noticed; a
    set that lacks a part is not served."""
    pytest.importorskip("fastapi")
    app = opened_app()
    items, link = clumps(60), tmp_path / "now"
    for name, shown in (("old", items), ("new", items._replace(vectors=-items.vectors))):
        (tmp_path / name).mkdir()
        for part, rows in enumerate((slice(0, 40), slice(40, 60))):
            write_embeddings(tmp_path / name / f"part-{part:05}-of-00002.arrow", sliced(shown, rows))
    link.symlink_to("old")
    catalogue = app.Catalogue(link, None)
    request = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(catalogue=catalogue)))

    def ask(**query):
        return app.search(app.Query(**{"weights": {"style": 1, "one": -0.5}, "k": 7} | query), request)["hits"]

    index, item = csn_jax.Index.open(tmp_path / "old"), items.ids[50]
    for query, wanted in (({"id": item}, item), ({"vector": [0.5] * 8, "filters": ["colour=red"]}, np.full(8, 0.5))):
        options = {"filters": query.get("filters")}
        ids, distances = index.search(wanted, {"style": 1, "one": -0.5}, 7, **options)
        hits = ask(**query)
        assert [hit["id"] for hit in hits] == ids.tolist()
        np.testing.assert_allclose([hit["distance"] for hit in hits], distances, rtol=1e-6)
        assert hits[0]["columns"] == {name: cells[index.row(hits[0]["id"])] for name, cells in index.columns.items()}
    for query, words in (({"id": "none"}, "no item has this id"), ({"vector": [1e200] * 8}, "too large")):
        with pytest.raises(app.HTTPException) as caught:
            ask(**query)
        assert words in caught.value.detail
    assert catalogue.stamp() == catalogue.seen
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").replace(link)
    assert catalogue.stamp() != catalogue.seen
    assert catalogue.opened().index.vectors[50].tolist() == (-items.vectors[50]).tolist()
    (tmp_path / "new" / "part-00001-of-00002.arrow").unlink()
    with pytest.raises(csn_jax.UserError, match="lacks part 00001"):
        catalogue.opened()


@pytest.mark.parametrize("lacking", ["fastapi", "pydantic"])
def test_without_the_framework_it_is_one_sentence(lacking, monkeypatch):
    pytest.importorskip("fastapi")
    monkeypatch.setitem(sys.modules, lacking, None)
    with pytest.raises(SystemExit) as caught:
        opened_app()
    assert f"cannot import {lacking}" in str(caught.value) and "pip install" in str(caught.value)


def opened_app():
    """The service's module."""
    spec = importlib.util.spec_from_file_location("serve_app", SERVE / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    return app


class Service:
    """A running service on a port of its own."""

    def __init__(self, log: Path, **environment: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(SERVE), "app:app", "--port", str(self.port)]
        environment = os.environ | environment | {"CSN_RELOAD_SECONDS": "0.1"}
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, env=environment, stderr=file, stdout=file)
        until = time.monotonic() + 120
        while True:
            try:
                assert self.ask("GET", "/healthz")[0] == 200
                return
            except OSError:
                assert time.monotonic() < until and self.process.poll() is None, log.read_text()
                time.sleep(0.1)

    def ask(self, method, path, body=None):
        """(status, JSON) of a request; the body is bytes, or becomes JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            body = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def search(self, **query):
        return self.ask("POST", "/search", query)


@pytest.fixture(scope="module")
def files(shop_runs, tmp_path_factory):
    """(index, model): a file of vectors and the exported network."""
    for package in ("fastapi", "uvicorn", "onnx", "onnxruntime"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"needs {package}: pip install fastapi uvicorn onnx onnxruntime")
    folder = tmp_path_factory.mktemp("serve")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSN_JAX_CACHE", str(shop_runs / "cache"))
        run = f"--workdir={shop_runs / 'pictures'}"
        embed.main([run, f"--table={shop_runs / 'products.csv'}", f"--out={folder / 'index.parquet'}"])
        export_file(open_run(shop_runs / "pictures"), folder / "model.onnx", "onnx")
    return folder / "index.parquet", folder / "model.onnx"


@pytest.fixture
def service(files, tmp_path):
    index, model = files
    shutil.copy(index, tmp_path / "index.parquet")
    running = Service(
        tmp_path / "log", CSN_INDEX=str(tmp_path / "index.parquet"), CSN_MODEL=str(model), CSN_MAX_BODY="200000"
    )
    yield running, tmp_path / "index.parquet"
    running.process.kill()
    running.process.wait()


@pytest.mark.slow
def test_a_start_that_fails_says_why(files, tmp_path):
    """One sentence, exit status 1: a half-written index, a file that is no model, and nothing at all."""
    index, model = files
    half = tmp_path / "half.parquet"
    half.write_bytes(index.read_bytes()[:5000])
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(SERVE), "app:app", "--port", "0"]
    for given, words in (
        ({"CSN_INDEX": str(half)}, "half-written or damaged"),
        ({"CSN_INDEX": str(index), "CSN_MODEL": str(half)}, "is not a model of csn_jax port export"),
        ({"CSN_INDEX": ""}, "CSN_INDEX is not set"),
    ):
        done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.slow
def test_answers_and_mistakes(service, shop_runs):
    running, path = service
    index = csn_jax.Index.open(path)
    picture, item = (shop_runs / "images/003.png").read_bytes(), "images/003.png"
    weights, vector = {"category": 1, "colour": -0.5}, index.vectors[3].tolist()
    for query, same in (
        ({"id": item}, index.search(item, weights, 5)),
        ({"vector": vector}, index.search(index.vectors[3], weights, 5)),
        ({"vector": vector, "filters": ["price<50"]}, index.search(index.vectors[3], weights, 5, filters=["price<50"])),
    ):
        status, answer = running.search(**query, weights=weights, k=5)
        assert status == 200 and [hit["id"] for hit in answer["hits"]] == same[0].tolist()
        np.testing.assert_allclose([hit["distance"] for hit in answer["hits"]], same[1], rtol=1e-6)
        assert answer["hits"][0]["columns"]["colour"] == index.columns["colour"][index.row(answer["hits"][0]["id"])]
    status, answer = running.search(picture=base64.b64encode(picture).decode(), weights={"colour": 1}, k=1)
    assert status == 200 and answer["hits"][0]["id"] == item and answer["hits"][0]["distance"] < 1e-3
    assert running.ask("GET", "/conditions")[1]["conditions"] == {"category": "categorical", "colour": "categorical"}
    assert running.ask("GET", "/healthz")[1] == {"items": 60, "model": index.items.model_sha256}
    bomb = base64.b64encode(shop.bomb(9000, 9000)).decode()
    for query, wrong, words in (
        ({"id": "none"}, 404, "no item has this id"),
        ({"id": item, "vector": vector}, 422, "give one of"),
        ({}, 422, "give one of"),
        ({"vector": vector[:3]}, 400, "give finite embeddings"),
        ({"vector": [float("nan")] * 6}, 400, "give finite embeddings"),
        ({"vector": vector, "filters": ["size"]}, 400, "has no value"),
        ({"picture": "%%%"}, 422, "not base64"),
        ({"picture": base64.b64encode(b"no image").decode()}, 400, "not a JPEG"),
        ({"picture": bomb}, 413, "pixels"),
        ({"vector": vector, "k": 0}, 422, "greater than"),
        ({"vector": vector, "weights": {"style": 1}}, 400, "unknown condition 'style'"),
        ({"vector": vector, "weights": {"colour": 0}}, 400, "zero"),
        ({"id": item, "x": 1}, 422, "Extra inputs"),
        ({"picture": "A" * 300_000}, 413, "more than 200,000 bytes"),
    ):
        status, answer = running.search(**({"weights": {"colour": 1}} | query))
        assert (status, words in answer["error"]) == (wrong, True), answer
    assert running.search(id=item, weights=weights)[0] == 200


def fuzzed(rng, whole):
    """A request that resembles a right one."""
    strange = (None, "", "é\0", -1, 1e308, float("nan"), [], {}, [[]], True, "9" * 50, {"a": {"b": 1}}, ["a"], "\ud800")
    query = dict(rng.choice(whole))
    for _ in range(rng.randrange(1, 3)):
        place = rng.choice(["id", "vector", "picture", "weights", "filters", "k", "more"])
        query[place] = rng.choice(strange)
        if rng.random() < 0.3:
            query["weights"] = {rng.choice(["category", "colour", "x", ""]): rng.choice(strange[3:6])}
        if rng.random() < 0.3:
            query["filters"] = [rng.choice(["price<", "price<x", "=", "tags=a", "colour!=red", "<<", "price>=1e400"])]
    body = bytearray(json.dumps(query).encode())
    for _ in range(rng.choice((0, 0, 1, 5))):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return bytes(body[: rng.choice((None, None, None, len(body) // 2))])


@pytest.mark.slow
def test_fuzzed_requests(service, shop_runs):
    """No 500 and no crash."""
    running, path = service
    picture = base64.b64encode((shop_runs / "images/003.png").read_bytes()).decode()
    vector = csn_jax.Index.open(path).vectors[3].tolist()
    whole = [
        {"weights": {"colour": 1}} | by for by in ({"id": "images/003.png"}, {"vector": vector}, {"picture": picture})
    ]
    rng, seen = random.Random(0), {}
    for _ in range(int(os.environ.get("CSN_JAX_FUZZ", 600))):
        request = "POST", "/search", fuzzed(rng, whole)
        if rng.random() < 0.1:
            method = rng.choice(["GET", "PUT", "DELETE", "OPTIONS", "POST"])
            request = (
                method,
                rng.choice(["/search", "/conditions?a=%00", "/healthz", "/%2e%2e/x", "//", "/%ff"]),
                request[2],
            )
        status, _ = running.ask(*request)
        seen[status] = seen.get(status, 0) + 1
        assert status in (200, 400, 404, 405, 413, 422), request
    assert len(seen) >= 4 and running.ask("GET", "/healthz")[0] == 200, seen


@pytest.mark.slow
def test_the_index_is_swapped_and_sigterm_loses_no_request(service):
    """Under load from 22 clients, every request is answered, by the old index or the new one; a half-written file is
    never served. At SIGTERM, 22 requests are in flight: all are answered before the process ends."""
    running, path = service
    items, ended, problems, answered = read_embeddings(path), threading.Event(), [], []

    def load(seed):
        rng = random.Random(seed)
        while not ended.is_set():
            vector = items.vectors[rng.randrange(60)].tolist()
            try:
                status, answer = running.search(vector=vector, weights={"colour": 1}, k=3)
                answered.append(answer["hits"][0]["id"] if status == 200 else str(status))
            except Exception as error:
                problems.append(repr(error))

    threads = [threading.Thread(target=load, args=(seed,)) for seed in range(22)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    path.write_bytes(path.read_bytes()[:5000])
    time.sleep(1)
    assert running.ask("GET", "/healthz")[1]["items"] == 60
    ids = np.array([f"new {item}" for item in items.ids], object)
    write_embeddings(path, items._replace(ids=ids[:50], vectors=items.vectors[:50], columns={}, digests=None))
    until = time.monotonic() + 30
    while running.ask("GET", "/healthz")[1]["items"] != 50:
        assert time.monotonic() < until
        time.sleep(0.1)
    time.sleep(0.5)
    ended.set()
    for thread in threads:
        thread.join()
    assert problems == [] and {item.partition("/")[0] for item in answered} == {"images", "new images"}
    body = json.dumps({"vector": items.vectors[0].tolist(), "weights": {"colour": 1}}).encode()
    head = f"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    flying = [socket.create_connection(("127.0.0.1", running.port), timeout=60) for _ in range(22)]
    for connection in flying:
        connection.sendall(head.encode() + body[:20])
    assert running.ask("GET", "/healthz")[0] == 200  # so the others were accepted too
    running.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    for connection in flying:
        connection.sendall(body[20:])
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200 and json.loads(answer.read())["hits"]
        connection.close()
    running.process.wait(timeout=60)
    said = running.log.read_text()
    assert "kept the old index" in said and "Traceback" not in said
