"""What a table file is, by its first bytes and not by its name; gzip is undone first."""

import gzip
import io
import re
import zlib
from pathlib import Path

from csn_jax.errors import UserError

HEAD = 1 << 16  # bytes that decide
MOST_TIMES, LARGE = 200, 1 << 26  # a gzip file above LARGE bytes may unpack to so many times its size
READ = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow stream"}
# (first bytes, what the file is, what to do instead); the first match counts
REFUSED = (
    (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` for the file itself"),
    (b"FEA1", "Feather version 1", "write it again with pyarrow or a newer pandas"),
    (b"PK\3\4", "a zip archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"BZh", "compressed by bzip2", "unpack it, or use gzip"),
    (b"\xfd7zXZ", "compressed by xz", "unpack it, or use gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it, or use gzip"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls)", "save the sheet as CSV UTF-8"),
    (b"SQLite format 3", "a SQLite database", "export the table as CSV or Parquet"),
    (b"\x89HDF", "an HDF5 file", "export the table as CSV or Parquet"),
    (b"\x93NUMPY", "a NumPy array", "give the table here, and this file as config.data.vectors"),
    (b"%PDF", "a PDF document", "export the table as CSV"),
    (b"ORC", "an ORC file", "write it as Parquet"),
    (b"Obj\1", "an Avro file", "write it as Parquet"),
    (b"RDX", "an R workspace", "write the table with write.csv"),
    (b"\x89PNG", "a PNG picture", "give the table that names the pictures"),
    (b"\xff\xd8\xff", "a JPEG picture", "give the table that names the pictures"),
    (b"\x80\4", "a Python pickle", "write the table with to_csv or to_parquet"),
    (b"\x80\5", "a Python pickle", "write the table with to_csv or to_parquet"),
)
CONTROL = bytes({*range(32)} - {*b"\t\n\v\f\r\x1a\x1b"})  # in a text, at most now and then
JSON = re.compile(rb'\{\s*["}]|\[\s*[{\["\d]')
PAGES = (b"<!doctype", b"<html", b"<?xml", b"<table", b"<head", b"<svg")


def kind_of(path: Path) -> tuple[str, io.BytesIO | None]:
    """(`parquet`, `arrow`, `arrow stream`, `json` or `text`; the unpacked content of a gzip file). UserError for
    another file, named for what it is."""
    if path.exists() and not (path.is_file() or path.is_dir()):  # opening a pipe again would wait for ever
        raise UserError(f"{path} is a pipe or a device, and a table is read more than once; save it as a file first.")
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
        content = _unpacked(path) if head.startswith(b"\x1f\x8b") else None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a CSV or Parquet file.") from None
    head = content.getvalue()[:HEAD] if content else head
    for start, kind in READ.items():
        if head.startswith(start):
            return kind, content
    for start, what, remedy in REFUSED:
        if head.startswith(start):
            if b"[Content_Types].xml" in head or b"xl/" in head[:4096]:
                what, remedy = "an Excel workbook", "save the sheet as CSV UTF-8"
            raise UserError(f"{path} is {what}, not a table; {remedy}.")
    beginning = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if beginning[:9].lower().startswith(PAGES):
        raise UserError(f"{path} is a web page (HTML or XML), not a table; download the file that the page shows.")
    if head[8:12] == b"DUCK":
        raise UserError(f"{path} is a DuckDB database, not a table; export the table as CSV or Parquet.")
    if Path(path.stem if content else path).suffix.lower() in (".parquet", ".pq"):
        return "parquet", content  # which says what is wrong with it
    control = len(head) - len(head.translate(None, CONTROL))
    if control > len(head) // 100 and not head.startswith((b"\xff\xfe", b"\xfe\xff")) and not utf_16(head):
        raise UserError(f"{path} holds binary data of an unknown kind; give a CSV or Parquet file.")
    return "json" if JSON.match(beginning) else "text", content


def utf_16(head: bytes) -> str:
    """`utf-16-le` or `utf-16-be` if every other byte of a text is zero, as in UTF-16 without a mark; else empty."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if odd > 0.3 * len(head) and not even:
        return "utf-16-le"
    return "utf-16-be" if even > 0.3 * len(head) and not odd else ""


def _unpacked(path: Path) -> io.BytesIO:
    most = max(LARGE, MOST_TIMES * path.stat().st_size)
    try:
        with gzip.open(path) as file:
            content = io.BytesIO(file.read(most + 1))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} cannot be unpacked by gzip ({error}); give a whole file.") from None
    if content.getbuffer().nbytes > most:
        raise UserError(f"{path} unpacks to more than {MOST_TIMES} times its size, as no table does; unpack it first.")
    return content
