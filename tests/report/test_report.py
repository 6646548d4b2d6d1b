"""csn_jax.report: which runs share a table, figures against naive ones, image maps, and the folder as a whole."""

import csv
import dataclasses
import io
import itertools
import json
import math
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import tiny
from made_runs import NAMES, config, make_run
from PIL import Image

from csn_jax import cli, report
from csn_jax.config import Config
from csn_jax.config.typed import flags
from csn_jax.data.item_set import Condition, ItemSet
from csn_jax.errors import UserError
from csn_jax.model.run import Run
from csn_jax.report import charts, folder, image_map
from csn_jax.report import text as report_text
from csn_jax.report.runs import Finished, arrange, curve, read_run, summarise

# Which runs stand together


def test_runs_that_differ_in_their_seed_are_a_row_and_variants_keep_the_papers_order():
    runs = [make_run(f"{variant}{seed}", config(variant, seed))
            for variant in ("learned", "fixed", "standard") for seed in (1, 0)]  # fmt: skip
    (section,) = arrange(runs)
    assert [row.label for row in section.rows] == ["standard", "fixed", "learned"]
    assert [run.name for run in section.rows[2].runs] == ["learned0", "learned1"]


def test_labels_name_only_what_differs():
    runs = [make_run("a", config("learned")), make_run("b", config("learned", steps=2400, feed="device"))]
    runs += [make_run("c", config("standard", log_every=7))]
    (section,) = arrange(runs)
    assert [row.label for row in section.rows] == [
        "standard, steps 1,200",
        "learned, steps 1,200",
        "learned, steps 2,400",
    ]


def test_training_triplets_make_a_series():
    runs = [make_run(f"{variant}{n}", config(variant), train=(n, chr(n % 90 + 33)))
            for variant in ("learned", "standard") for n in (20_000, 5_000)]  # fmt: skip
    (section,) = arrange(runs)
    assert [(row.label, row.series, row.triplets) for row in section.rows] == [
        ("standard, 5,000 training triplets", "standard", 5_000),
        ("standard, 20,000 training triplets", "standard", 20_000),
        ("learned, 5,000 training triplets", "learned", 5_000),
        ("learned, 20,000 training triplets", "learned", 20_000),
    ]
    # As many, but others.
    runs = [make_run("a", config("learned")), make_run("b", config("learned"), train=(2000, "u"))]
    (section,) = arrange(runs)
    assert [row.label for row in section.rows] == [f"learned, which training triplets {c * 8}" for c in "tu"]


def test_other_items_or_conditions_are_another_section():
    runs = [make_run("a", config("learned")), make_run("b", config("learned"), data="x")]
    runs += [make_run("c", config("fixed")), make_run("d", config("fixed"), names=("shape", "size"))]
    sections = arrange(runs)
    assert [[run.name for row in one.rows for run in row.runs] for one in sections] == [["c", "a"], ["b"], ["d"]]


def test_a_run_given_twice_is_refused():
    """A deviation over copies would be zero."""
    with pytest.raises(UserError, match="a and b are the same run, seed 0") as caught:
        arrange([make_run("a", config("learned")), make_run("b", config("learned", feed="device"))])
    assert tiny.is_one_sentence(str(caught.value).rstrip("."))


# Figures


def seeds(values) -> list[Finished]:
    return [make_run(f"s{i}", config("learned", i), errors=pair) for i, pair in enumerate(values)]


def test_mean_and_deviation_are_those_of_naive_loops():
    values = [(0.1, 0.32), (0.14, 0.3), (0.11, 0.37)]
    (section,) = arrange([*seeds(values), make_run("alone", config("standard"), errors=(0.2, 0.4))])
    alone, row = section.rows
    for i, name in enumerate(NAMES):
        mean = (values[0][i] + values[1][i] + values[2][i]) / 3
        deviation = math.sqrt(sum((value[i] - mean) ** 2 for value in values) / 2)
        found = summarise(row, "triplet_error", name)
        assert (found.mean, found.deviation) == pytest.approx((mean, deviation), rel=1e-12)
        assert found.interval is None and found.seeds == 3
    found = summarise(alone, "triplet_error", "overall")
    assert (found.mean, *found.interval) == pytest.approx((0.3, 0.29, 0.32)) and found.deviation is None


def cells(text: str, head: str) -> list[list[str]]:
    """The rows of the Markdown table that follows a heading."""
    block = text.split(f"### {head}\n\n")[1].split("\n\n")[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]


def test_the_table_says_what_results_say():
    runs = [*seeds([(0.1, 0.32), (0.14, 0.3)]), make_run("alone", config("standard"), errors=(0.2, 0.4))]
    text = report_text.markdown(arrange(runs), [[]], ["x: not finished, so left out."])
    head, rule, standard, learned = cells(text, "Triplet error on test")
    assert head == ["masks", "seeds", "shape", "colour", "overall"] and rule == ["---"] * 2 + ["---:"] * 3
    assert standard == [
        "standard",
        "1",
        "20.00% (19.00 to 22.00)",
        "40.00% (39.00 to 42.00)",
        "30.00% (29.00 to 32.00)",
    ]
    # By hand: deviations of (10, 14), (32, 30) and (21, 22) with one degree of freedom.
    assert learned == ["learned", "2", "12.00 ± 2.83 %", "31.00 ± 1.41 %", "21.50 ± 0.71 %"]
    assert text.startswith(report_text.MARK) and "Note: x: not finished" in text
    for run in runs:
        words = re.search(rf"csn_jax train (.*)--workdir={run.name}\n", text)[1].split()
        assert words == flags(run.config)


def test_csv_holds_every_figure_unrounded():
    runs = [*seeds([(0.1, 0.32), (0.14, 0.3)]), make_run("alone", config("standard"), errors=(1 / 3, 0.4))]
    sections = arrange(runs)
    lines = list(csv.DictReader(io.StringIO(report_text.table_csv(sections))))
    assert len(lines) == 2 * 3 and {line["measure"] for line in lines} == {"triplet_error"}
    by = {(line["masks"], line["condition"]): line for line in lines}
    assert float(by["standard", "shape"]["mean"]) == 1 / 3 and by["standard", "shape"]["deviation"] == ""
    assert float(by["standard", "shape"]["low"]) == 1 / 3 - 0.01
    assert float(by["learned", "colour"]["mean"]) == pytest.approx(0.31, rel=1e-12)
    assert float(by["learned", "colour"]["deviation"]) == pytest.approx(0.02 / math.sqrt(2), rel=1e-9)
    assert by["learned", "colour"]["low"] == ""
    lines = list(csv.DictReader(io.StringIO(report_text.runs_csv(sections))))
    assert len(lines) == 3 * 3
    for line in lines:
        run = next(run for run in runs if run.name == line["run"])
        part = run.results.triplet_error
        value = part["overall"] if line["condition"] == "overall" else part["by_condition"][line["condition"]]
        assert float(line["value"]) == value and int(line["seed"]) == run.config.seed


def test_optional_parts_of_results_are_shown():
    """Retrieval that all runs have, an off-task probe, and what raw vectors do."""
    kinds = {"recall@1": 0.5, "map@r": 0.25}
    retrieval = {
        "by_condition": dict.fromkeys(NAMES, kinds),
        "ci95": {"by_condition": {name: {kind: [0.2, 0.6] for kind in kinds} for name in NAMES}},
        "n_queries": {"by_condition": dict.fromkeys(NAMES, 20)},
    }
    off_task = {"by_label": {"brand": 0.125}, "ci95": {"by_label": {"brand": [0.1, 0.2]}}}
    raw = {"overall": 0.45, "by_condition": {"shape": 0.4, "colour": None}}
    first = make_run("a", config("learned"), retrieval=retrieval, off_task=off_task, baselines={"cosine": raw})
    second = make_run("b", config("standard"), retrieval=retrieval, baselines={"cosine": raw})
    text = report_text.markdown(arrange([first, second]), [[]], [])
    assert cells(text, "Triplet error on test")[-1] == ["raw cosine", "", "40.00%", "", "45.00%"]
    assert cells(text, "Retrieval on test: MAP@R")[2:] == [
        [label, "1", "25.00% (20.00 to 60.00)", "25.00% (20.00 to 60.00)"] for label in ("standard", "learned")
    ]
    assert cells(text, "Off-task: top-1 of a linear probe")[2:] == [["learned", "0", "12.50% (10.00 to 20.00)"]]
    assert "precision@10" not in text
    for variant in ("fixed", "learned_disjoint"):  # above the row that has it, and below
        text = report_text.markdown(arrange([first, make_run("c", config(variant))]), [[]], [])
        assert "Retrieval" not in text and "Retrieval" in report_text.markdown(arrange([first]), [[]], [])


def test_names_are_text_and_no_markup():
    names = ("a|b", "<img src=x onerror=alert(1)>", "_under_", "`tick`", "![x](y)")
    run = make_run("r", config("learned"), errors=(0.1,) * 5, names=names)
    sections = arrange([run])
    text = report_text.markdown(sections, [[report_text.Picture("map_a|b (1).png", "Map by a|b", "caption", b"")]], [])
    assert "<img" not in text and "![x]" not in text and "`tick`" not in text
    rows = cells(text, "Triplet error on test")
    assert {len(row) for row in rows} == {2 + 6}
    assert rows[0][2] == "a&#124;b"
    assert "(map_a%7Cb%20%281%29.png)" in text
    assert [line["condition"] for line in csv.DictReader(io.StringIO(report_text.table_csv(sections)))][:5] == [*names]


# Reading


def test_damaged_runs_are_reported(finished, tmp_path):
    def wrong(name):
        with pytest.raises(UserError) as caught:
            read_run(str(name))
        assert tiny.is_one_sentence(str(caught.value).rstrip("."))
        return str(caught.value)

    assert "is not a folder" in wrong(tmp_path / "none")
    assert "no config.json" in wrong(tmp_path)
    workdir = shutil.copytree(finished, tmp_path / "run")
    results = json.loads((workdir / "results.json").read_text())
    for part in ("triplet_error", "conditions", "split", "ci95"):
        (workdir / "results.json").write_text(json.dumps({k: v for k, v in results.items() if k != part}))
        assert "results.json" in wrong(workdir) and "damaged" in wrong(workdir)
    (workdir / "results.json").write_text("{")
    assert "damaged" in wrong(workdir)
    (workdir / "results.json").unlink()
    assert read_run(str(workdir)) is None


def test_curves_are_those_of_the_log(finished, tmp_path):
    run = read_run(str(finished))
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    for metric in ("train/loss", "validation/triplet_error/overall"):
        assert curve(run, metric) == (
            [line["step"] for line in lines if metric in line],
            [line[metric] for line in lines if metric in line],
        )
    workdir = shutil.copytree(finished, tmp_path / "run")
    (workdir / "metrics.jsonl").write_bytes((workdir / "metrics.jsonl").read_bytes() + b'{"step": 1, "tr')
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
        curve(read_run(str(workdir)), "train/loss")
    (workdir / "metrics.jsonl").unlink()
    assert curve(read_run(str(workdir)), "train/loss") == ([], [])


def test_specialists_have_one_curve(tmp_path):
    """At shared steps the errors weigh by their validation triplets, and losses alike."""
    run = make_run("s", config("specialists"))
    below = []
    logs = {"shape": ((4, 0.1, 1.0), (8, 0.2, 2.0)), "colour": ((4, 0.4, 5.0), (8, 0.3, 4.0), (12, 0.0, 0.0))}
    for (name, log), n in zip(logs.items(), (300, 100), strict=True):
        (tmp_path / name).mkdir()
        record = dataclasses.replace(run.run.record, triplets={"train": 1, "validation": n, "test": 1})
        below.append(Run(tmp_path / name, config("standard"), record, None, ()))
        entries = [{"step": s, "validation/triplet_error/overall": e, "train/loss": x} for s, e, x in log]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    run = run._replace(run=dataclasses.replace(run.run, specialists=tuple(below)))
    steps, values = curve(run, "validation/triplet_error/overall")
    assert steps == [4, 8] and values == pytest.approx([(300 * 0.1 + 100 * 0.4) / 400, (300 * 0.2 + 100 * 0.3) / 400])
    assert curve(run, "train/loss") == ([4, 8], [3.0, 3.0])


# Image maps


def test_each_item_gets_a_cell_of_its_own_and_moves_little():
    rng = np.random.default_rng(0)
    places = np.concatenate([rng.normal(centre, 0.1, (60, 2)) for centre in ((0, 0), (1, 2), (3, 1))])
    cells_, (lines, columns) = image_map.to_grid(places)
    assert len({tuple(cell) for cell in cells_.tolist()}) == len(places)
    assert (
        cells_.min() >= 0 and (cells_ < [lines, columns]).all() and len(places) <= lines * columns < 1.5 * len(places)
    )

    def moved(of) -> float:
        """The way to the cells, with the first coordinate to the right and the second up."""
        scaled = (places - places.min(0)) / np.ptp(places, axis=0)
        x, y = of[:, 1] / (columns - 1), 1 - of[:, 0] / (lines - 1)
        return float(np.hypot(scaled[:, 0] - x, scaled[:, 1] - y).sum())

    assert moved(cells_) < 0.5 * min(moved(cells_[rng.permutation(len(cells_))]) for _ in range(20))


def test_the_grid_is_optimal(monkeypatch):
    """Against every other placement of a few items."""
    monkeypatch.setattr(image_map, "CELLS_PER_ITEM", 1.6)
    places = np.random.default_rng(3).normal(size=(5, 2))
    cells_, (lines, columns) = image_map.to_grid(places)
    scaled = (places - places.min(0)) / np.ptp(places, axis=0) * [columns - 1, lines - 1]
    everywhere = list(itertools.product(range(lines), range(columns)))

    def cost(of) -> float:
        return sum((x - c) ** 2 + (lines - 1 - y - r) ** 2 for (x, y), (r, c) in zip(scaled, of, strict=True))

    best = min(cost(cells) for cells in itertools.permutations(everywhere, 5))
    assert cost(cells_.tolist()) == pytest.approx(best)


@pytest.mark.parametrize("places", [np.zeros((7, 2)), np.arange(9.0)[:, None] * [1, 0], np.zeros((1, 2))])
def test_degenerate_maps_have_cells(places):
    cells_, _ = image_map.to_grid(places)
    assert len({tuple(cell) for cell in cells_.tolist()}) == len(places)


@pytest.mark.parametrize(
    ("channels", "side", "drawn", "ink"), [(1, 20, 32, True), (3, 40, 40, False), (3, 112, 48, False)]
)
def test_a_map_shows_each_picture_once_in_its_cell(channels, side, drawn, ink):
    n = 50
    pictures = np.zeros((n, side, side, channels), np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None] * 4
    places = np.random.default_rng(0).normal(size=(n, 2))
    cells_, (lines, columns) = image_map.to_grid(places)
    data = image_map.draw_map(pictures, places, "By shape", "caption", ink=ink)
    sheet = np.asarray(Image.open(io.BytesIO(data)).convert("L"), int)
    step = drawn + 2
    assert sheet.shape == (52 + lines * step + 8, max(columns * step + 16, 640))
    left = (sheet.shape[1] - columns * step) // 2
    for i, (line, column) in enumerate(cells_):
        top, x = 52 + line * step, left + column * step
        assert set(sheet[top : top + drawn, x : x + drawn].ravel()) == {255 - 4 * i if ink else 4 * i}
    assert (sheet[:52] < 255).any()  # the head


def many_items(n: int, n_fonts: int) -> ItemSet:
    rng = np.random.default_rng(0)
    labels = {"letter": rng.choice(list("abc"), n), "font": np.char.add("f", rng.integers(0, n_fonts, n).astype(str))}
    conditions = tuple(Condition(name, "categorical") for name in labels)
    return ItemSet(np.zeros((n, 8, 8, 1), np.uint8), np.arange(n).astype(str), labels, np.full(n, "test"), conditions)


def test_maps_choose_items_that_show_groups():
    items, rows = many_items(600, 200), np.arange(100, 600)
    everything, few = image_map.choose_items(items, rows, 500)
    assert everything.tolist() == rows.tolist() and few is None
    # 200 fonts have 2 or 3 items each: all items of fewer fonts are better than one of each.
    chosen, few = image_map.choose_items(items, rows, 120)
    font = items.labels["font"]
    shown = set(font[chosen].tolist())
    assert few == ("font", len(shown), len(set(font[rows].tolist()))) and 90 < len(chosen) <= 120
    assert sorted(chosen.tolist()) == [row for row in rows if font[row] in shown]
    # 5 fonts show as they are.
    items = many_items(600, 5)
    chosen, few = image_map.choose_items(items, rows, 120)
    assert few is None and len(set(chosen.tolist())) == 120 and set(chosen) <= set(rows)
    assert (image_map.choose_items(items, rows, 120)[0] == chosen).all()


# The other pictures


def size_of(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        assert picture.format == "PNG"
        return picture.size


def png(figure) -> bytes:
    return charts.saved(figure, "png")


def test_every_kind_of_picture_is_drawn(monkeypatch):
    runs = [make_run(f"{variant}{n}{seed}", config(variant, seed), (0.1 + seed / 50, 0.2), train=(n, chr(n % 90 + 33)))
            for variant in ("standard", "learned") for n in (20_000, 5_000) for seed in (0, 1, 2)
            if (variant, seed) < ("standard", 1)]  # fmt: skip
    (section,) = arrange(runs)
    log = {"train/loss": ([*range(1, 500)], [1 / step for step in range(1, 500)])}
    monkeypatch.setattr(charts, "curve", lambda run, metric: log.get(metric, ([], [])))
    assert size_of(png(charts.draw_curves(section))) == (11 * 130, 546)
    assert size_of(png(charts.draw_triplets(section))) == (975, 572)
    assert size_of(png(charts.draw_errors(section)))[1] == 546
    masks = [(name, np.random.default_rng(0).normal(1, 1, (2, 16)).clip(0)) for name in "abcd"]
    width, height = size_of(png(charts.draw_masks(masks, NAMES)))
    three = size_of(png(charts.draw_masks(masks[:3], NAMES)))
    assert three[0] == int((1.5 + 3.6 * 3) * 130) and width == int((1.5 + 3.6 * 2) * 130) and height > three[1]
    monkeypatch.setattr(charts, "curve", lambda run, metric: ([], []))
    assert charts.draw_curves(section) is None
    assert charts.draw_triplets(arrange([make_run("a", config("learned"))])[0]) is None


@pytest.mark.parametrize("n_points", [1, 2])
def test_a_curve_of_one_point_has_a_marker(n_points, monkeypatch):
    """A line through one point shows nothing."""
    (section,) = arrange([make_run(f"a{seed}", config("learned", seed)) for seed in (0, 1)])
    monkeypatch.setattr(charts, "curve", lambda run, metric: ([*range(n_points)], [0.3] * n_points))
    lines = [line for panel in charts.draw_curves(section).axes for line in panel.lines]
    assert len(lines) == 6  # two panels: two seeds and their mean
    assert {line.get_marker() != "none" for line in lines} == {n_points == 1}


def test_charts_in_other_formats_are_vectors_and_always_the_same():
    (section,) = arrange([make_run("a", config("learned"))])
    svg, again = (charts.saved(charts.draw_errors(section), "svg") for _ in range(2))
    assert svg == again and b"<svg" in svg and b"<image" not in svg and b"<dc:date>" not in svg
    pdf, again = (charts.saved(charts.draw_errors(section), "pdf") for _ in range(2))
    assert pdf == again and pdf.startswith(b"%PDF")


def test_thinned_curves_keep_their_mean():
    steps, values = np.arange(1, 1001), np.random.default_rng(0).normal(size=1000)
    few_steps, few = charts._thinned(steps, values)
    assert len(few) == 112 and few[0] == pytest.approx(values[:9].mean()) and few_steps[0] == 5
    assert few[-1] == pytest.approx(values[999:].mean())
    same = charts._thinned(steps[:100], values[:100])
    assert (same[0] == steps[:100]).all() and (same[1] == values[:100]).all()


# The whole command


def sibling(finished: Path, workdir: Path, shift: float = 0.0, **changes) -> Path:
    """A copy of a run that claims another config and other errors."""
    shutil.copytree(finished, workdir)
    old = Config.from_json((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(dataclasses.replace(old, **changes).to_json())
    results = json.loads((workdir / "results.json").read_text())
    results["triplet_error"]["overall"] += shift
    (workdir / "results.json").write_text(json.dumps(results))
    return workdir


def test_one_command_makes_the_folder(finished, specialists, tmp_path, capsys):
    """Seeds, specialists and an unfinished run; the runs stay as they are; every link leads somewhere."""
    other = sibling(finished, tmp_path / "other seed", 0.05, seed=1)
    standard = sibling(finished, tmp_path / "standard", 0.2, variant="standard")
    stopped = sibling(finished, tmp_path / "stopped", variant="fixed")
    (stopped / "results.json").unlink()
    folders = [finished, other, standard, stopped, specialists]
    before = [tiny.contents(folder) for folder in folders]
    out = tmp_path / "report"
    capsys.readouterr()
    report.main([*map(str, folders), f"--out={out}", "--items=60"])
    stdout, stderr = capsys.readouterr()
    assert f"{out}/report.md compares 4 runs; 5 pictures lie beside it" in stdout
    assert [tiny.contents(folder) for folder in folders] == before
    assert "stopped: not finished, so left out" in stderr and "drawing maps" in stderr
    names = {"report.md", "table.csv", "runs.csv", "errors.png", "curves.png", "masks.png"}
    assert {path.name for path in out.iterdir()} == names | {"map_character.png", "map_font.png"}
    text = (out / "report.md").read_text()
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert len(links) == 7 and all((out / unquote(link)).is_file() for link in links)
    rows = cells(text, "Triplet error on test")[2:]
    assert [row[:2] for row in rows] == [["standard", "1"], ["specialists", "1"], ["learned", "2"]]
    errors = [json.loads((folder / "results.json").read_text())["triplet_error"]["overall"] for folder in folders[:2]]
    assert rows[2][-1] == f"{100 * np.mean(errors):.2f} ± {100 * np.std(errors, ddof=1):.2f} %"
    for path in out.glob("*.png"):
        width, height = size_of(path.read_bytes())
        assert 600 < width < 2500 and 200 < height < 2500


@pytest.mark.slow
def test_a_second_report_is_identical_and_replaces_the_first(finished, tmp_path, capsys):
    out = tmp_path / "report"
    report.main([str(finished), f"--out={out}", "--items=30", "--also", "svg", "pdf"])
    assert {path.name for path in out.glob("*.svg")} == {"errors.svg", "curves.svg", "masks.svg"}
    assert {path.name for path in out.glob("*.pdf")} == {"errors.pdf", "curves.pdf", "masks.pdf"}
    report.main([str(finished), f"--out={out}", "--items=30"])
    assert not [*out.glob("*.svg"), *out.glob("*.pdf")]
    first = {name: data for name, (data, _) in tiny.contents(out).items()}
    (out / "map_3_old.png").write_bytes(b"")
    report.main([str(finished), f"--out={out}", "--items=30"])
    assert {name: data for name, (data, _) in tiny.contents(out).items()} == first
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_without_the_data_there_are_tables_and_a_note(finished, tmp_path, capsys):
    workdir = sibling(finished, tmp_path / "run")
    record = json.loads((workdir / "data.json").read_text()) | {"items_sha256": "0" * 64}
    (workdir / "data.json").write_text(json.dumps(record))
    out = tmp_path / "report"
    report.main([str(finished), str(workdir), f"--out={out}", "--items=30"])
    text = (out / "report.md").read_text()
    assert "measured on 2 different tests" in text and "## 1. glyphs" in text and "## 2. glyphs" in text
    assert "no image maps, as" in text and "was trained on other data" in text
    assert {path.name for path in out.glob("map*")} == {"map_1_character.png", "map_1_font.png"}
    assert {path.name for path in out.glob("masks*")} == {"masks_1.png", "masks_2.png"}


def test_vectors_have_no_maps():
    run = make_run("r", config("learned"))
    record = dataclasses.replace(run.run.record, input_shape=(12,))
    run = run._replace(run=dataclasses.replace(run.run, record=record))
    with pytest.raises(UserError, match="are vectors"):
        folder.draw_maps(run, None, "", 100)


def test_messages(finished, tmp_path, capsys, monkeypatch):
    """Each mistake exits 2 with one line that has these words, and writes nothing."""
    copy, unfinished = sibling(finished, tmp_path / "copy"), sibling(finished, tmp_path / "unfinished")
    (unfinished / "results.json").unlink()
    before = sorted(path.name for path in tmp_path.iterdir())
    out = f"--out={tmp_path / 'report'}"
    for arguments, words in (
        ((out,), ("workdirs", "csn_jax report --help")),
        ((tmp_path / "none", out), ("none is not a folder",)),
        ((tmp_path, out), ("no config.json",)),
        ((finished, out, "--items=9"), ("--items is 9", "10 to 2,500")),
        ((finished, out, "--item=9"), ("did you mean --items",)),
        ((finished, copy, out), ("are the same run, seed 0", "copy")),
        ((unfinished, out), ("none of these runs is finished", "unfinished")),
        ((finished, f"--out={unfinished}"), ("which this command did not write", "unfinished")),
    ):
        monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.run(report.main)
        output, message = capsys.readouterr()
        assert (exit_.value.code, output) == (2, "")
        assert tiny.is_one_sentence(message.strip().removesuffix("."))
        assert all(word in message for word in words), message
    assert sorted(path.name for path in tmp_path.iterdir()) == before
