"""csn_jax teach: the page's files, what they hold, and the way from answers to a searched condition."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import csn_jax
from csn_jax import adapt, explore, search, teach
from csn_jax.adapt import raters
from csn_jax.adapt.tables import of_raters, read_tables
from csn_jax.config import DataConfig
from csn_jax.core.maps import principal_axes, rotated
from csn_jax.store.open_index import open_vectors
from csn_jax.teach.folder import MARK, OURS, worker_source

N = 120
HOSTILE = '</script><img src=x onerror="window.hacked=1">'


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Vectors of another program, with a colour on one axis that cosine hardly sees, and a hostile label."""
    rng = np.random.default_rng(0)
    colours = rng.choice(["red", "green", "blue"], N)
    vectors = rng.normal(0, 1, (N, 16)).astype(np.float32)
    for axis, colour in enumerate(["red", "green", "blue"]):
        vectors[colours == colour, axis] += 2.5
    columns = {
        "id": [f"item {i}" for i in range(N)],
        "colour": colours.tolist(),
        HOSTILE: [HOSTILE] * N,
        "vector": vectors.tolist(),
    }
    path = tmp_path_factory.mktemp("teach") / "things.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path, colours, vectors


def read(script):
    name, text = re.fullmatch(r"const (\w+) = (.*);\n", script.decode(), re.DOTALL).groups()
    return json.loads(text)


def test_a_page_of_a_table_of_vectors(table, tmp_path, capsys):
    path, colours, vectors = table
    out = tmp_path / "page"
    teach.main([f"--index={path}", "--condition=shade", "--values", "dark", "light", f"--out={out}"])
    said = "".join(capsys.readouterr())
    assert "asks about 120 of 120 items" in said and "webbrowser" in said
    assert all(OURS.fullmatch(file.name) for file in out.iterdir()) and MARK[1] in (out / "index.html").read_bytes()
    data = read((out / "data.js").read_bytes())
    assert data["ids"] == [f"item {i}" for i in range(N)] and data["values"] == ["dark", "light"]
    assert data["command"] == f"csn_jax adapt --index={path} --table=labels.csv --condition=shade"
    assert b"<" not in (out / "data.js").read_bytes() and [c["name"] for c in data["columns"]] == ["colour", HOSTILE]
    points = np.frombuffer(base64.b64decode(read((out / "points.js").read_bytes())), "<f4").reshape(N, data["k"])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ours, theirs = (np.linalg.norm(x[:50, None] - x[None, 50:], axis=2) for x in (points, unit))
    np.testing.assert_allclose(ours / ours.mean(), theirs / theirs.mean(), rtol=1e-4)  # all axes: the raw geometry
    assert read((out / "worker.js").read_bytes()) == worker_source()
    again = {file.name: file.read_bytes() for file in out.iterdir()}
    teach.main([f"--index={path}", "--condition=shade", "--values", "dark", "light", f"--out={out}"])
    assert {file.name: file.read_bytes() for file in out.iterdir()} == again


def test_a_page_loads_only_files_beside_it(table, tmp_path):
    path, *_ = table
    teach.main([f"--index={path}", "--condition=shade", "--ask=grid", "--max_items=60", f"--out={tmp_path / 'page'}"])
    page = {file.name: file.read_text() for file in (tmp_path / "page").iterdir()}
    loaded = re.findall(r"(?:src|href)=\"([^\"]*)\"", page["index.html"])
    assert set(loaded) == set(page) - {"index.html"}
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page["index.html"])[1]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for name in page.keys() - {"data.js", "points.js", "worker.js", "index.html", "basis.css", "page.css"}:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|fetch\(|https?:", page[name])
    assert len(read((tmp_path / "page" / "data.js").read_bytes())["ids"]) == 60


MISTAKES = {
    "few": (["--max_items=20"], "give 40 or more"),
    "rater": (["--condition=rater"], "another column of the answers"),
    "a folder's name": (["--condition=a/b"], "cannot name a file"),
    "values of a grid": (["--ask=grid", "--values", "a"], "has no use with --ask=grid"),
    "empty value": (["--values", "a", " "], "an empty or a repeated value"),
    "repeated value": (["--values", "a", "a"], "an empty or a repeated value"),
    "no file": (["--index=/no/such.parquet"], "/no/such.parquet is not a file"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence_and_write_nothing(name, table, tmp_path):
    flags, words = MISTAKES[name]
    usual = {"index": table[0], "condition": "shade", "out": tmp_path / "page"}
    given = {flag[2:].split("=")[0] for flag in flags}
    with pytest.raises(csn_jax.UserError) as raised:
        teach.main([*flags, *(f"--{flag}={value}" for flag, value in usual.items() if flag not in given)])
    assert words in str(raised.value) and "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def write_labels(path, rows):
    path.write_text("\r\n".join(",".join(map(str, row)) for row in [("id", "shade", "rater"), *rows]) + "\r\n")
    return path


@pytest.mark.slow
def test_from_answers_to_a_searched_condition(table, tmp_path, capsys, monkeypatch):
    """Without a run: vectors, answers of a page, adapt, search, explore, and a second condition beside the first."""
    path, colours, vectors = table
    monkeypatch.chdir(tmp_path)
    write_labels(tmp_path / "labels.csv", [(f"item {i}", colours[i], "anna") for i in range(60)])
    adapt.main([f"--index={path}", "--table=labels.csv", "--condition=shade", "--out=run"])
    said = "".join(capsys.readouterr())
    assert "shade, learned from labels of 60 items in labels.csv" in said
    assert re.search(r"search --index=.* --workdir=run '--id=item 0' --condition=shade", said), said
    report = json.loads((tmp_path / "run/data.json").read_text())["adapted"][0]
    assert report["cross_validated"] and report["form"] != "none"
    assert report["triplet_error"] < report["unmasked"]["triplet_error"]
    model = csn_jax.load("run")
    assert model.conditions == ("shade",) and model.embed(vectors).tobytes() == vectors.tobytes()
    search.main([f"--index={path}", "--workdir=run", "--id=item 100", "--condition=shade", "--json", "--k=20"])
    hits = [hit["id"] for hit in json.loads(capsys.readouterr().out)["hits"]]
    alike = np.mean([colours[int(hit.split()[1])] == colours[100] for hit in hits])
    assert alike > np.mean(colours == colours[100]) + 0.2
    explore.main([f"--index={path}", "--workdir=run", "--out=page"])
    assert [one["name"] for one in read((tmp_path / "page/data.js").read_bytes())["conditions"]] == ["shade"]
    with pytest.raises(csn_jax.UserError, match="has a condition 'shade' already"):
        teach.main([f"--index={path}", "--workdir=run", "--condition=shade", "--out=again"])
    teach.main([f"--index={path}", "--workdir=run", "--condition=tone", "--out=again"])
    (tmp_path / "labels.csv").write_text((tmp_path / "labels.csv").read_text().replace("shade", "tone"))
    adapt.main([f"--index={path}", "--workdir=run", "--table=labels.csv", "--condition=tone", "--out=both"])
    both = csn_jax.load("both")
    assert both.conditions == ("shade", "tone")
    np.testing.assert_array_equal(both.maps.matrix[both.mask("shade") > 0], model.maps.matrix)


def test_the_points_of_a_page_are_the_axes_of_adapt(table):
    """So that weights of the page's axes are the diagonal that adapt fits to the same answers."""
    path, _, vectors = table
    items = open_vectors(path)
    from csn_jax.adapt.start import start_on
    from csn_jax.teach.items import points_of

    _, state = start_on(path).restore()
    axes = principal_axes(vectors, np.arange(N), 16, unit=True)
    np.testing.assert_array_equal(np.asarray(state.statistics["axes"]), axes.rows)
    np.testing.assert_array_equal(points_of(items, np.arange(len(vectors))), rotated(axes, vectors, True))


@pytest.mark.slow
def test_several_people_are_weighed(table, tmp_path, capsys, monkeypatch):
    """Two people who know the colours, and one who answers at random: agreement is reported, and the third counts
    little. Weighed answers give the lower error."""
    path, colours, vectors = table
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    names = ["red", "green", "blue"]
    asked = {"anna": range(40), "ben": range(10, 45), "carl": range(5, 100)}
    for name, items in asked.items():
        said = [colours[i] if name != "carl" else names[rng.integers(3)] for i in items]
        write_labels(tmp_path / f"{name}.csv", [(f"item {i}", value, "") for i, value in zip(items, said, strict=True)])
    errors = {}
    for how in ("weighed", "equal"):
        flags = [f"--index={path}", "--condition=shade", f"--raters={how}", f"--out={how}"]
        adapt.main([*flags, "--table", "anna.csv", "ben.csv", "carl.csv"])
        text = capsys.readouterr()
        assert "3 raters share" in text.err + text.out and "Krippendorff's alpha" in text.err + text.out
        report = json.loads((tmp_path / how / "data.json").read_text())["adapted"][0]
        weights = report["raters"]["weights"]
        if how == "equal":
            assert set(weights.values()) == {1.0}
        else:
            assert weights["anna"] > 0.8 and weights["ben"] > 0.8 and weights["carl"] < 0.4
        view = csn_jax.load(how).view(vectors)
        near = view[:, None] - view[None]
        order = np.argsort(np.square(near).sum(axis=2), axis=1)[:, 1:6]
        errors[how] = np.mean(colours[order] != colours[:, None])
    assert errors["weighed"] < errors["equal"]


@pytest.mark.slow
def test_triplets_of_several_people(table, tmp_path, capsys, monkeypatch):
    path, colours, _ = table
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    questions = []
    while len(questions) < 150:
        a, p, n = rng.choice(N, 3, replace=False)
        if colours[a] == colours[p] != colours[n]:
            questions.append((a, p, n))
    lines = ["anchor,positive,negative,condition,worker"]
    for name, skill in (("anna", 1.0), ("ben", 0.95), ("carl", 0.5)):
        for a, p, n in questions[: 150 if name != "ben" else 100]:
            p, n = (p, n) if rng.random() < skill else (n, p)
            lines.append(f"item {a},item {p},item {n},shade,{name}")
    (tmp_path / "triplets.csv").write_text("\n".join(lines))
    adapt.main([f"--index={path}", "--table=triplets.csv", "--condition=shade", "--out=run"])
    report = json.loads((tmp_path / "run/data.json").read_text())["adapted"][0]
    weights = report["raters"]["weights"]
    assert weights["anna"] > 0.9 and weights["carl"] < 0.3 and report["raters"]["shared"] == 150
    assert report["n_triplets"] == 150 and report["triplet_error"] < 0.2


def naive_alpha(units):
    """Krippendorff's alpha from pairs, for categories."""
    n = sum(map(len, units))
    pairs = [(unit, i, j) for unit in units for i in range(len(unit)) for j in range(len(unit)) if i != j]
    apart = sum((unit[i] != unit[j]) / (len(unit) - 1) for unit, i, j in pairs)
    everything = [value for unit in units for value in unit]
    chance = sum(a != b for i, a in enumerate(everything) for j, b in enumerate(everything) if i != j)
    return 1 - (apart / n) / (chance / (n * (n - 1)))


def test_agreement_is_krippendorffs_alpha():
    rng = np.random.default_rng(0)
    units = [rng.choice(3, rng.integers(2, 5), p=[0.6, 0.3, 0.1]) for _ in range(30)]
    assert raters._alpha(units) == pytest.approx(naive_alpha([unit.tolist() for unit in units]))
    question = np.repeat(np.arange(30), [len(unit) for unit in units])
    person = np.concatenate([[f"r{i}" for i in range(len(unit))] for unit in units])
    found = raters.weigh(question, np.concatenate(units).astype(str), person)
    assert found.alpha == pytest.approx(raters._alpha(units)) and found.shared == 30
    same = raters.weigh(np.array([0, 0, 1, 1]), np.array(["a", "a", "b", "b"]), np.array(["x", "y"] * 2))
    assert same.alpha == 1.0
    alone = raters.weigh(np.array([0, 1]), np.array(["a", "b"]), np.array(["x", "y"]))
    assert alone.alpha is None and set(alone.weights.values()) == {1.0} and "share no question" in alone.about()


def test_who_guesses_counts_little():
    """Of three values, two people know 90 %, and one guesses: weights, and the share of right answers that are kept."""
    rng = np.random.default_rng(0)
    truth, question, answer, rater = rng.integers(0, 3, 200), [], [], []
    for name, skill, items in (("anna", 0.9, range(120)), ("ben", 0.9, range(60, 160)), ("carl", 0, range(200))):
        for item in items:
            question.append(item)
            answer.append(str(truth[item] if rng.random() < skill else rng.integers(0, 3)))
            rater.append(name)
    given = np.array(question), np.array(answer), np.array(rater)
    right = {}
    for equal in (False, True):
        found = raters.weigh(*given, equal=equal)
        kept = raters.joined(*given, found)
        assert len(set(given[0][kept])) == len(kept)  # one answer per question
        right[equal] = np.mean(given[1][kept] == truth[given[0][kept]].astype(str))
        assert equal or (found.weights["carl"] < 0.3 and min(found.weights["anna"], found.weights["ben"]) > 0.9)
    assert right[False] > right[True] + 0.1
    rows = raters.joined(*given, raters.weigh(*given))
    assert np.array_equal(rows, raters.joined(*given, raters.weigh(*given)))  # the same every time


def test_several_tables_are_one(tmp_path):
    """By the columns that they share; a table without names of raters is that of one person, by the file's name."""
    (tmp_path / "anna.csv").write_text("id,shade,rater\n1,dark,Anna\n2,light,\n")
    (tmp_path / "ben.csv").write_text("shade,id,note\ndark,1,x\n")
    (tmp_path / "other.csv").write_text("anchor,positive,negative\n1,2,3\n")
    table = read_tables([str(tmp_path / "anna.csv"), str(tmp_path / "ben.csv")], DataConfig())
    assert table.text == {"id": ["1", "2", "1"], "shade": ["dark", "light", "dark"], "rater": ["Anna", "anna", "ben"]}
    assert table.where(2) == f"{tmp_path}/anna.csv and ben.csv, row 3"
    joined, found = of_raters(table, "shade", None, DataConfig(), equal=False)
    assert joined.text == {"id": ["1", "2"], "shade": ["dark", "light"]} and found.shared == 1 and found.alpha == 1
    alone = read_tables([str(tmp_path / "ben.csv")], DataConfig())
    assert of_raters(alone, "shade", None, DataConfig(), equal=False)[1] is None
    with pytest.raises(csn_jax.UserError, match="share no column"):
        read_tables([str(tmp_path / "anna.csv"), str(tmp_path / "other.csv")], DataConfig())


def test_what_people_left_blank_is_no_answer(tmp_path):
    """Three lists of all items, in each of which one person filled in a third. Numbers that one program wrote as 1 and
    another as 1.0 are the same answer."""
    files = [tmp_path / f"{name}.csv" for name in ("anna", "ben", "carl")]
    for person, file in enumerate(files):
        said = [str(i % 4) if i % 3 == person else "NA" if i % 2 else "" for i in range(30)]
        said[0] = ("0", "0.0", "0.00")[person]
        file.write_text("id,level\n" + "".join(f"p{i},{value}\n" for i, value in enumerate(said)))
    data = DataConfig()
    joined, found = of_raters(read_tables([*map(str, files)], data), "level", None, data, equal=False)
    assert dict(zip(joined.text["id"], map(float, joined.text["level"]), strict=True)) == {
        f"p{i}": i % 4 for i in range(30)
    }
    assert (found.shared, found.alpha) == (1, 1)


def test_files_of_one_name_are_of_several_people(tmp_path):
    """A page saves labels.csv for everybody; a file that is named twice would count twice."""
    places = []
    for name in ("anna", "ben"):
        (tmp_path / name).mkdir()
        places.append(str(tmp_path / name / "labels.csv"))
        Path(places[-1]).write_text("id,shade\np1,dark\np2,light\n")
    assert set(read_tables(places, DataConfig()).text["rater"]) == set(places)
    with pytest.raises(csn_jax.UserError, match="twice"):
        read_tables([places[0], str(tmp_path / "ben" / ".." / "anna" / "labels.csv")], DataConfig())
