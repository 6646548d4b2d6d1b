"""Tables as people bring them: what a file is, its encoding, delimiter and quotes; cells stay text."""

import datetime
import decimal
import gzip
import io
import json
import os
import time

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import tiny

from csn_jax.data.columns import read_columns, table_digest
from csn_jax.errors import UserError

PLAIN = {"id": ["p0", "p1"], "size": ["1,5", "2"], "name": ["Bär", "a b"]}


def read(folder, content: bytes, name: str = "t.csv", **options):
    (folder / name).write_bytes(content)
    return read_columns(folder / name, **options)


# Each is PLAIN, and has a note with these words.
FORMS = {
    "commas": ('id,size,name\np0,"1,5",Bär\np1,2,a b\n'.encode(), ""),
    "semicolons": ("id;size;name\np0;1,5;Bär\np1;2;a b\n".encode(), "semicolons"),
    "tabs": ("id\tsize\tname\np0\t1,5\tBär\np1\t2\ta b\n".encode(), "tabs"),
    "pipes": ("id|size|name\np0|1,5|Bär\np1|2|a b\n".encode(), "pipes"),
    "for Excel": ("sep=;\r\nid;size;name\r\np0;1,5;Bär\r\np1;2;a b\r\n".encode(), "semicolons"),
    "mark of UTF-8": ('\ufeff"id","size","name"\n"p0","1,5","Bär"\n"p1","2","a b"\n'.encode(), ""),
    "UTF-16": ("id;size;name\r\np0;1,5;Bär\r\np1;2;a b\r\n".encode("utf-16"), "UTF-16"),
    "UTF-16 without a mark": ("id;size;name\np0;1,5;Bär\np1;2;a b\n".encode("utf-16-be"), "UTF-16-BE"),
    "UTF-16 of Windows without a mark": ("id;size;name\np0;1,5;Bär\np1;2;a b\n".encode("utf-16-le"), "UTF-16-LE"),
    "Latin-1": ("id;size;name\np0;1,5;Bär\np1;2;a b\n".encode("latin-1"), "Latin-1"),
    "single quotes": ("'id','size','name'\n'p0','1,5','Bär'\n'p1','2','a b'\n".encode(), ""),
    "spaces before quotes": ('id, "size", name\np0, "1,5", Bär\np1, 2, a b\n'.encode(), ""),
    "row numbers of pandas": (',id,size,name\n7,p0,"1,5",Bär\n3,p1,2,a b\n'.encode(), "which has no name"),
    "their name": ('Unnamed: 0,id,size,name\n0,p0,"1,5",Bär\n1,p1,2,a b\n'.encode(), "Unnamed: 0"),
    "row numbers of R": ('"id","size","name"\n"1","p0","1,5","Bär"\n"2","p1","2","a b"\n'.encode(), "row numbers"),
    "delimiters at the end": ("id;size;name;;\np0;1,5;Bär;;\np1;2;a b;;\n".encode(), "at the end of each line"),
    "empty rows": (
        "id;size;name\n\np0;1,5;Bär\n;;\n ; ;\np1;2;a b\n;;\n".encode(),
        "without any value are left out: 3",
    ),
    "old Mac": ("id;size;name\rp0;1,5;Bär\rp1;2;a b\r".encode(), "semicolons"),
    "gzip": (gzip.compress("id;size;name\np0;1,5;Bär\np1;2;a b\n".encode()), "semicolons"),
    "JSON lines": (b'{"id": "p0", "size": "1,5", "name": "B\\u00e4r"}\n\n{"name": "a b", "id": "p1", "size": 2}\n', ""),
    "JSON list": (b'[{"id": "p0", "size": "1,5", "name": "B\\u00e4r"}, {"id": "p1", "size": 2, "name": "a b"}]', ""),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_text_is_read_whatever_its_form(name, tmp_path):
    content, words = FORMS[name]
    columns = read(tmp_path, content)
    assert columns.text == PLAIN
    assert any(words in note for note in columns.notes) if words else columns.notes == ()


def test_commas_in_names_and_cells_do_not_hide_semicolons(tmp_path):
    columns = read(tmp_path, b"id;price, EUR\na;1,5\nb;2,0\n")
    assert columns.text == {"id": ["a", "b"], "price, EUR": ["1,5", "2,0"]}
    assert read(tmp_path, b"tags\na;b\nc\n").text == {"tags": ["a;b", "c"]}


def test_lines_of_rows_are_those_of_the_file(tmp_path):
    """Behind a line for Excel, blank rows, a cell of two lines and a row that is left out."""
    content = b'sep=;\nid;text\n\na;"one\ntwo"\n;\nb;x\nc;y;z\nd;w\n'
    columns = read(tmp_path, content, skip_bad=True)
    assert columns.text["id"] == ["a", "b", "d"] and list(columns.lines) == [4, 7, 9]
    assert any("left out: 1, on line 8" in note for note in columns.notes)
    lines = read(tmp_path, b'{"a": 1}\n\n[]\n{"a": 2}\n', skip_bad=True)
    assert lines.text == {"a": ["1", "2"]} and lines.where(1).endswith("row 2 (line 4)")


QUOTES = {
    "escaped as by MySQL": (b'id,text\na,"5\\" wide, \\"new\\""\n', '5" wide, "new"', "backslash"),
    "literal in a text of tabs": (b'id\ttext\n"a" b\t"one" of 5"\n', '"one" of 5"', "as they are"),
    "doubled": (b'id,text\na,"say ""no"""\n', 'say "no"', ""),
}


@pytest.mark.parametrize("name", QUOTES)
def test_quotes_of_other_programs(name, tmp_path):
    content, text, words = QUOTES[name]
    columns = read(tmp_path, content)
    assert columns.text["text"] == [text] and any(words in note for note in columns.notes) == bool(words)


def test_outer_spaces_that_make_one_value_of_two_are_noted(tmp_path):
    columns = read(tmp_path, b"id,colour,shape\n1,red, boot\n2,red , boot\n")
    assert columns.text["colour"] == ["red", "red"]
    note = "colour: outer spaces are removed, so 'red' with and without them is one value"
    assert columns.notes == (note,)
    table = pa.table({"colour": pa.array(["red", " red", None]).dictionary_encode(), "shape": ["boot ", " shoe", "x"]})
    columns = read(tmp_path, written(table, "Parquet"))
    assert columns.text == {"colour": ["red", "red", ""], "shape": ["boot", "shoe", "x"]} and columns.notes == (note,)
    columns = read(tmp_path, b'{"colour": "red"}\n{"colour": "red "}\n')
    assert columns.text == {"colour": ["red", "red"]} and columns.notes == (note,)


def test_an_encoding_can_be_declared(tmp_path):
    content = "id,text\na,č\n".encode("cp1250")
    with pytest.raises(UserError, match=r"is not UTF-8 text .* line 2\); .*--config.data.encoding=cp1252"):
        read(tmp_path, content)
    assert read(tmp_path, content, encoding="cp1250").text["text"] == ["č"]
    with pytest.raises(UserError, match="'latn' is|'latn', which is not an encoding"):
        read(tmp_path, content, encoding="latn")


AMBIGUOUS = {
    "French": ("crème", "latin-1"),
    "Czech": ("čaj", "cp1250"),
    "Mac": ("café", "mac_roman"),
    "Russian": ("мама", "cp1251"),
    "€": ("5 €", "cp1252"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_encoding_that_could_be_several_is_not_guessed(name, tmp_path):
    text, encoding = AMBIGUOUS[name]
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read(tmp_path, f"id,text\na,{text}\n".encode(encoding))


# (content, words of the message): what a file is that is not a table.
OTHERS = {
    "zip": (b"PK\3\4" + bytes(30), "is a zip archive"),
    "xlsx": (b"PK\3\4" + bytes(30) + b"[Content_Types].xml", "is an Excel workbook"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "is an old Excel workbook"),
    "web page": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "is a web page"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "is a Git LFS pointer"),
    "SQLite": (b"SQLite format 3\0" + bytes(99), "is a SQLite database"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "is a PNG picture"),
    "pickle": (b"\x80\4\x95" + bytes(99), "is a Python pickle"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(99), "is compressed by zstd"),
    "binary": (bytes(range(128)) * 9, "binary data of an unknown kind"),
    "cut gzip": (gzip.compress(b"id,a\n1,2\n")[:-4], "cannot be unpacked by gzip"),
    "gzip bomb": (gzip.compress(bytes(70 << 20)), "unpacks to more than"),
    "gzip of a web page": (gzip.compress(b"<html></html>"), "is a web page"),
    "columns as JSON": (b'{"id": {"0": "a"}}', "orient='records', lines=True"),
    "one object over many lines": (b'{\n  "id": 1\n}\n', "orient='records', lines=True"),
    "JSON numbers": (b'[{"a": 1}, 2]', "is not a JSON list of objects"),
    "JSON lists": (b"[1, 2]\n[3, 4]\n", "is not a JSON list of objects"),
    "half a character": (b'{"id": "a"}\n{"id": "\\ud800"}\n', "row 2 (line 2): column 'id' holds half a character"),
    "a name with NUL": (b'{"i\\u0000": "a"}\n', "whose name is not text"),
    "names of rows": (b'"id","a"\n"x","p",1\n"y","q",2\n', "2 column names in its first line and 3 cells in each row"),
    "extra commas": (b"id,text\na,b\nc,d, e\nf,g, h\n", "line 3 has 3 cells and the first line 2, and 1 more row"),
}


def test_a_pipe_is_refused_at_once(tmp_path):
    """`--table=<(zcat items.csv.gz)`: opened again, it would wait for ever for somebody who writes."""
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(UserError, match="is a pipe or a device"):
        read_columns(tmp_path / "t.csv")


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_table_is_named_for_what_it_is(name, tmp_path):
    content, words = OTHERS[name]
    with pytest.raises(UserError) as error:
        read(tmp_path, content)
    assert words in str(error.value) and str(error.value).count("\n") == 0
    assert tiny.is_one_sentence(str(error.value).replace("t.csv", "t"))


def written(table: pa.Table, form: str) -> bytes:
    buffer = io.BytesIO()
    if form == "Parquet":
        pyarrow.parquet.write_table(table, buffer)
    elif form == "Feather":
        pyarrow.feather.write_feather(table, buffer)
    else:
        with (pa.ipc.new_stream if form == "stream" else pa.ipc.new_file)(buffer, table.schema) as writer:
            writer.write_table(table)
    return buffer.getvalue()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["Parquet", "Feather", "Arrow", "stream"])
def test_arrow_files_are_read_whatever_their_name(form, packed, tmp_path):
    table = pa.table({"id": ["a", None], "n": [1, 2], "__index_level_0__": [5, 6]})
    content = written(table, form)
    columns = read(tmp_path, gzip.compress(content) if packed else content, "t.txt")
    assert columns.text == {"id": ["a", ""], "n": ["1", "2"]} and "index of pandas" in columns.notes[0]
    with pytest.raises(UserError, match="cannot be read as|is not UTF-8|binary data"):
        read(tmp_path, content[: len(content) // 2], "t.txt")


DAY = datetime.datetime(2020, 5, 17, 8, 30)
# (values of a Parquet column, their text)
TYPED = {
    "whole numbers beyond 2**53": (
        pa.array([2**53 + 1, -(2**63), None]),
        ["9007199254740993", "-9223372036854775808", ""],
    ),
    "unsigned": (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
    "decimals": (pa.array([decimal.Decimal("1.10"), decimal.Decimal("-0.05")]), ["1.10", "-0.05"]),
    "booleans": (pa.array([True, False, None]), ["true", "false", ""]),
    "dates": (pa.array([DAY.date(), None]), ["2020-05-17", ""]),
    "timestamps": (pa.array([DAY], pa.timestamp("ns")), ["2020-05-17 08:30:00"]),
    "nanoseconds": (pa.array([1], pa.timestamp("ns")), ["1970-01-01 00:00:00.000000001"]),
    "years beyond Python": (pa.array([253_402_300_800], pa.timestamp("s")), ["10000-01-01 00:00:00.000"]),
    "a time zone": (pa.array([DAY], pa.timestamp("s", "UTC")), ["2020-05-17 08:30:00+00:00"]),
    "dictionary": (pa.array(["b", None, "007", "b"]).dictionary_encode(), ["b", "", "007", "b"]),
    "dictionary of numbers": (pa.array([2**60, 5]).dictionary_encode(), [str(2**60), "5"]),
    "views": (pa.array(["x", " y "], pa.string_view()), ["x", "y"]),
    "lists": (pa.array([["a", "b"], None, []], pa.large_list(pa.string())), ["a;b", "", ""]),
    "lists of fixed size": (pa.array([["b", "a"]], pa.list_(pa.string(), 2)), ["b;a"]),
    "lists of a dictionary": (pa.array([["b"]], pa.list_(pa.dictionary(pa.int32(), pa.string()))), ["b"]),
    "semicolons in members": (pa.array([["a;b", "c"]]), ["a,b;c"]),
    "durations": (pa.array([1500, None, 60_000], pa.duration("ms")), ["1.5", "", "60"]),
    "short durations": (pa.array([1, 10**9], pa.duration("ns")), ["1e-09", "1"]),
    "UUIDs": (pa.array([b"0" * 16], pa.uuid()), ["30303030-3030-3030-3030-303030303030"]),
    "floats": (pa.array([2012.0, 0.1, float("nan")]), ["2012", "0.1", ""]),
}


@pytest.mark.parametrize("name", TYPED)
def test_typed_columns_become_their_own_text(name, tmp_path):
    array, text = TYPED[name]
    assert read(tmp_path, written(pa.table({"a": array}), "Parquet"), "t.parquet").text["a"] == text


def test_json_keeps_digits_lists_and_truth_values(tmp_path):
    first = b'{"id": 1234567890123456789, "v": 1.10, "t": ["a;", "b"], "ok": true, "vec": [0.10, 2e3], "o": {"x": 1}}'
    columns = read(tmp_path, first + b'\n{"v": NaN}')
    first = {"id": "1234567890123456789", "v": "1.10", "t": "a,;b", "ok": "true", "vec": "[0.10, 2e3]"}
    assert {name: values[0] for name, values in columns.text.items()} == first
    assert {values[1] for values in columns.text.values()} == {""} and columns.notes == (
        "o holds objects and is left out",
    )


def hugging_face(folder, names, **metadata):
    """A folder of Parquet files with one row each."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"id": [f"p{i}"], "label": [i]}).replace_schema_metadata(metadata)
        pyarrow.parquet.write_table(table, folder / name)
    (folder / "README.md").write_text("---\n")
    return read_columns(folder)


@pytest.mark.parametrize(
    "names",
    [
        [
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
            "data/validation-0.parquet",
            "data/test-0.parquet",
        ],
        [
            "default/train/0000.parquet",
            "default/train/0001.parquet",
            "default/valid/0000.parquet",
            "default/test/0000.parquet",
        ],
    ],
)
def test_a_folder_of_hugging_face_is_one_table(names, tmp_path):
    """Splits follow from names; numbers of classes become their names."""
    features = {"label": {"names": ["boot", "shoe", "bag", "hat"], "_type": "ClassLabel"}, "id": {"_type": "Value"}}
    columns = hugging_face(tmp_path / "set", names, huggingface=json.dumps({"info": {"features": features}}))
    assert columns.text["id"] == ["p0", "p1", "p2", "p3"] and columns.text["label"] == ["boot", "shoe", "bag", "hat"]
    assert columns.text["split"] == ["train", "train", "validation", "test"] and columns.folder == tmp_path / "set"
    digest = table_digest(tmp_path / "set")
    (tmp_path / "set" / names[3]).write_bytes((tmp_path / "set" / names[0]).read_bytes())
    assert table_digest(tmp_path / "set") != digest


def test_a_folder_without_all_splits_says_so(tmp_path):
    columns = hugging_face(tmp_path / "set", ["train-0.parquet", "test-0.parquet"])
    assert "split" not in columns.text and any("test, train" in note and "split anew" in note for note in columns.notes)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is a folder without Parquet files"):
        read_columns(tmp_path / "empty")


def test_finding_the_form_costs_little(tmp_path):
    (tmp_path / "t.csv").write_text("id;" + ";".join(f"c{i}" for i in range(40)) + "\n" + ("x;" * 40 + "1,5\n") * 3000)
    from csn_jax.data.delimited import _form_of

    sample = (tmp_path / "t.csv").read_text()[: 1 << 16]
    start = time.process_time()
    assert _form_of(sample, whole=False).delimiter == ";"
    assert time.process_time() - start < 0.2
