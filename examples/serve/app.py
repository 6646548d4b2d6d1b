"""A search service over a file of csn_jax embed, or a folder of part files, without JAX. To search by pictures it takes
an exported ONNX model.

    CSN_INDEX=products.parquet CSN_MODEL=model.onnx uvicorn --app-dir examples/serve app:app

Copy this file and change it. When the file of vectors or a part is replaced, the service opens the new index beside the
old one and then swaps them: no request is dropped, and a damaged file is reported and never served.
"""

import base64
import binascii
import contextlib
import io
import json
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from PIL import Image

import csn_jax

try:
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from pydantic import BaseModel, ConfigDict, Field
except ImportError as error:  # uvicorn, which imports this file, prints the sentence
    raise SystemExit(
        f"the service cannot import {error.name}; run pip install -r requirements.txt beside it."
    ) from None

MAX_BODY = int(os.environ.get("CSN_MAX_BODY", 8 << 20))  # bytes
MAX_PIXELS = int(os.environ.get("CSN_MAX_PIXELS", 20_000_000))
SECONDS = float(os.environ.get("CSN_RELOAD_SECONDS", 5))  # between two looks at the file of vectors
AT_ONCE = threading.BoundedSemaphore(2 * (os.cpu_count() or 1))  # searches and pictures; more would only wait for cores

log = logging.getLogger("uvicorn.error")


class Encoder:
    """An exported model: pixels to embeddings."""

    def __init__(self, path: Path):
        try:
            import onnxruntime
        except ImportError:
            raise csn_jax.UserError("CSN_MODEL needs onnxruntime; install it, or leave out CSN_MODEL.") from None
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            about = self.session.get_modelmeta().custom_metadata_map
            self.model_sha256 = about["model_sha256"]
            self.input, self.fit = json.loads(about["input"]), about.get("fit", "crop")
        except Exception as error:  # onnxruntime raises many types
            reason = str(error).splitlines()[0]
            raise csn_jax.UserError(f"{path} is not a model of csn_jax port export --format=onnx ({reason}).") from None

    def embed(self, picture: bytes) -> np.ndarray:
        """The embedding [D] of the bytes of an image file; a UserError if it cannot be read."""
        _, size, _, channels = self.input["shape"]
        pixels = csn_jax.preprocess(picture, size, channels, self.fit)
        return self.session.run(["embedding"], {"input": pixels[None]})[0][0]


class Served(NamedTuple):
    """An index, and a function that gives the row of an id, or None."""

    index: csn_jax.Index
    row_of: Callable[[str], int | None]


class Catalogue:
    """The index that is served now. `watch` replaces it when its file, or a file of its folder, changes."""

    def __init__(self, path: Path, encoder: Encoder | None):
        self.path, self.encoder, self.ended = path, encoder, threading.Event()
        self.seen = self.stamp()
        self.served = self.opened()

    def stamp(self) -> list[tuple[str, int, int, int]] | None:
        """What changes when another index lies at the path, which may be a link."""
        try:
            place = self.path.resolve()
            files = sorted(place.glob("[!.]*")) if place.is_dir() else [place]
            stats = [(str(file), file.stat()) for file in files]
        except OSError:
            return None
        return [(name, status.st_ino, status.st_size, status.st_mtime_ns) for name, status in stats]

    def opened(self) -> Served:
        """The index, checked against its digests and against the model. A UserError if it cannot be served."""
        place = self.path.resolve()  # all parts of a folder come from where the link points now
        index = csn_jax.Index.open(place)
        if self.encoder and self.encoder.model_sha256 != index.items.model_sha256:
            raise csn_jax.UserError(f"{self.path} is not of the exported model; export and embed again.")
        if self.encoder and index.maps is not None:
            raise csn_jax.UserError("a model of maps gives views; leave out CSN_MODEL and search by vectors.")
        for name in index.conditions:  # the first search under a condition sums squares, or makes its views
            if index.masks[index.conditions.index(name)].any():
                index.nearest(index.vectors[:1], name, 1)
        if not place.is_dir():
            return Served(index, {item: row for row, item in enumerate(index.ids.tolist())}.get)

        def row_of(item: str) -> int | None:
            """By a look through the parts: a dictionary would take more memory than the index."""
            with contextlib.suppress(csn_jax.UserError):
                return index.row(item)
            return None

        return Served(index, row_of)

    def watch(self) -> None:
        """Look at the file again and again; a failure leaves the index that is served."""
        while not self.ended.wait(SECONDS):
            stamp = self.stamp()
            if stamp is None or stamp == self.seen:
                continue
            self.seen = stamp
            try:
                self.served = self.opened()
                log.info("serving %s items of %s", len(self.served.index), self.path)
            except (csn_jax.UserError, OSError, MemoryError) as error:
                log.error("kept the old index: %s", error)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open model and index before the first request."""
    index, model = (os.environ.get(name, "") for name in ("CSN_INDEX", "CSN_MODEL"))
    try:
        if not index:
            raise csn_jax.UserError("CSN_INDEX is not set; give a file of csn_jax embed, or a folder of parts.")
        catalogue = Catalogue(Path(index), Encoder(Path(model)) if model else None)
    except csn_jax.UserError as error:
        log.critical("%s", error)
        os._exit(1)  # any exception would be logged with its traceback
    app.state.catalogue = catalogue
    watcher = threading.Thread(target=catalogue.watch, daemon=True)
    watcher.start()
    yield
    catalogue.ended.set()


app = FastAPI(title="csn_jax", lifespan=lifespan)


class LimitBody:
    """Refuse bodies above MAX_BODY while they arrive, also without a Content-Length."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if len(body) > MAX_BODY:
                answer = JSONResponse({"error": f"the body has more than {MAX_BODY:,} bytes"}, 413)
                await answer(scope, receive, send)
                return
            if not message.get("more_body"):
                break
        whole = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def again() -> dict:
            return whole.pop() if whole else await receive()

        await self.app(scope, again, send)


app.add_middleware(LimitBody)


class Query(BaseModel):
    """A search: by one of id, vector and picture (an image file in base64)."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(max_length=4096)] | None = None
    vector: Annotated[list[float], Field(min_length=1, max_length=65_536)] | None = None
    picture: str | None = None
    weights: Annotated[dict[str, float], Field(min_length=1, max_length=100)]
    filters: Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=100)] = []
    k: Annotated[int, Field(ge=1, le=1000)] = 10


@app.exception_handler(csn_jax.UserError)
async def mistake(_: Request, error: csn_jax.UserError) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 400)


@app.exception_handler(RequestValidationError)
async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
    """Without the input, which may hold what JSON cannot."""
    first = error.errors()[0]
    return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 422)


@app.post("/search")
def search(query: Query, request: Request) -> dict[str, Any]:
    """The k nearest items under a mixture of conditions: {"hits": [{"id", "distance", "columns"}]}."""
    catalogue: Catalogue = request.app.state.catalogue
    served = catalogue.served  # one index for the whole request
    if [query.id, query.vector, query.picture].count(None) != 2:
        raise HTTPException(422, "give one of id, vector and picture")
    index, itself = served.index, -1
    with AT_ONCE:
        if query.id is not None:
            if (row := served.row_of(query.id)) is None:
                raise HTTPException(404, "no item has this id")
            itself, wanted = row, index.vectors[row]
        elif query.vector is not None:
            wanted = np.array(query.vector)
        else:
            wanted = embedded(catalogue.encoder, query.picture or "")
        options = {"filters": query.filters or None, "exclude": [itself]}
        rows, squares = index.nearest(wanted[None], query.weights, query.k, **options)
        rows = rows[0][rows[0] >= 0]
        distances = np.copysign(np.sqrt(np.abs(squares[0])), squares[0])  # negative weights can make squares negative
        if not np.isfinite(distances[: len(rows)]).all():
            raise HTTPException(422, "the vector's numbers are too large")
        found = {name: cells[rows].tolist() for name, cells in index.columns.items()}
        ids = index.ids[rows].tolist()
    return {
        "hits": [
            {"id": item, "distance": distance, "columns": {name: cells[place] for name, cells in found.items()}}
            for place, (item, distance) in enumerate(zip(ids, distances.tolist(), strict=False))
        ]
    }


def embedded(encoder: Encoder | None, text: str) -> np.ndarray:
    """The embedding of a picture in base64. Its size is looked at before it is decoded."""
    if encoder is None:
        raise HTTPException(422, "this service has no model; search by id or vector")
    try:
        picture = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise HTTPException(422, "the picture is not base64") from None
    try:
        with Image.open(io.BytesIO(picture)) as image:
            width, height = image.size
    except Exception:  # Pillow raises many types on a damaged file; preprocess says what is wrong
        width = height = 0
    if width * height > MAX_PIXELS:
        raise HTTPException(413, f"the picture has more than {MAX_PIXELS:,} pixels")
    return encoder.embed(picture)


@app.exception_handler(HTTPException)
async def refused(_: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse({"error": error.detail}, error.status_code)


@app.get("/conditions")
def conditions(request: Request) -> dict[str, Any]:
    """What a search may ask for."""
    index = request.app.state.catalogue.served.index
    kinds = {condition.name: condition.kind for condition in index.items.conditions}
    return {"conditions": kinds, "columns": [*index.columns], "width": index.vectors.shape[1]}


@app.get("/healthz")
def health(request: Request) -> dict[str, Any]:
    """Whether searches are answered, and from what."""
    index = request.app.state.catalogue.served.index
    return {"items": len(index), "model": index.items.model_sha256}
