"""The text of a report: Markdown for people, CSV for programs."""

import csv
import io
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from csn_jax.config.typed import flags
from csn_jax.report.runs import Row, Section, Summary, summarise
from csn_jax.runtime.record import at

MARK = "<!-- written by csn_jax.report -->"
MEASURES = ("recall@1", "recall@5", "recall@10", "precision@10", "r_precision", "map@r")  # of retrieval
SHOWN = {"recall@1": "recall@1", "precision@10": "precision@10", "map@r": "MAP@R"}  # in the Markdown: by which names
BASELINES = {"euclidean": "raw Euclidean", "cosine": "raw cosine", "prototypes": "4 examples per value"}
BASELINES |= {"linear_probe": "linear probes"}


class Picture(NamedTuple):
    """A picture of a section. more: the same picture in other formats, by the names of their files."""

    file: str
    title: str
    caption: str
    png: bytes
    more: dict[str, bytes] = {}


def markdown(sections: Sequence[Section], pictures: Sequence[Sequence[Picture]], notes: Sequence[str]) -> str:
    """report.md: a heading for each section, with its pictures; the notes say what is left out, and why."""
    parts = [MARK, "# Report"]
    if len(sections) > 1:
        parts.append(f"The runs were measured on {len(sections)} different tests; each test has its own tables.")
    parts += [f"Note: {_text(note)}" for note in notes]
    for number, (section, shown) in enumerate(zip(sections, pictures, strict=True), 1):
        parts += _section(section, f"{number}. " if len(sections) > 1 else "")
        before = ""
        for picture in shown:
            title, caption = _text(picture.title), [] if picture.caption == before else [_text(picture.caption)]
            parts += [f"### {title}", *caption, f"![{title}]({quote(picture.file)})"]
            before = picture.caption
    runs = [run for section in sections for row in section.rows for run in row.runs]
    commands = [shlex.join(["csn_jax", "train", *flags(run.config), f"--workdir={run.name}"]) for run in runs]
    parts += ["## The commands that made these runs", "\n".join(["```bash", *commands, "```"])]
    parts.append("All figures, unrounded: [table.csv](table.csv), and of every run [runs.csv](runs.csv).")
    return "\n\n".join(parts) + "\n"


def _section(section: Section, number: str) -> list[str]:
    record, results = section.record, section.rows[0].runs[0].results
    split, names = results.split, [*section.conditions, "overall"]
    items, triplets = f"{record.items[split]:,} {split} items", f"{results.figure('overall').n:,} {split} triplets"
    lines = _lines(section, "triplet_error", names)
    baselines = results.baselines or {}
    for key, name in BASELINES.items():
        if key in baselines:
            values = [at(baselines[key], n) for n in names]
            lines.append((name, "", ["" if value is None else f"{value:.2%}" for value in values]))
    parts = [
        f"## {number}{_text(record.source)}: {_text(', '.join(section.conditions))}",
        f"{items} and {triplets} (split by {record.split_unit}); items `{record.items_sha256[:12]}`, triplets "
        f"`{record.triplets_sha256[split][:12]}`.",
        f"### Triplet error on {split}",
        _table(["masks", "seeds", *names], lines),
        "Lower is better. " + _legend(section.rows),
    ]
    for measure in shared_measures(section):
        if measure in SHOWN:
            table = _table(["masks", "seeds", *section.conditions], _lines(section, measure, section.conditions))
            parts += [f"### Retrieval on {split}: {SHOWN[measure]}", table]
    return parts + _off_task(section)


def _lines(section: Section, measure: str, names: Sequence[str]) -> list[tuple[str, Any, list[str]]]:
    return [(row.label, len(row.runs), [_percent(summarise(row, measure, n)) for n in names]) for row in section.rows]


def _off_task(section: Section) -> list[str]:
    """How well a linear probe predicts labels that are not conditions, if results have it (csn_jax evaluate --full)."""
    probed = [(row, run) for row in section.rows for run in row.runs if (run.results.off_task or {}).get("by_label")]
    if not probed:
        return []
    labels = list(dict.fromkeys(label for _, run in probed for label in run.results.off_task["by_label"]))
    lines = []
    for row, run in probed:
        values, intervals = run.results.off_task["by_label"], run.results.off_task["ci95"]["by_label"]
        cells = {label: _percent(Summary(values[label], None, tuple(intervals[label]), 1)) for label in values}
        lines.append((row.label, run.config.seed, [cells.get(label, "") for label in labels]))
    return ["### Off-task: top-1 of a linear probe", _table(["masks", "seed", *labels], lines)]


def shared_measures(section: Section) -> list[str]:
    """Measures of retrieval that all runs have for all conditions."""
    runs = [run for row in section.rows for run in row.runs]

    def is_shared(measure: str) -> bool:
        try:
            return all(run.results.figure(name, measure) for run in runs for name in section.conditions)
        except (KeyError, TypeError, ValueError):  # older results, or a condition without labels
            return False

    return [measure for measure in MEASURES if is_shared(measure)]


def _percent(figure: Summary) -> str:
    if figure.interval:
        low, high = figure.interval
        return f"{figure.mean:.2%} ({100 * low:.2f} to {100 * high:.2f})"
    return f"{100 * figure.mean:.2f} ± {100 * figure.deviation:.2f} %"


def _legend(rows: Sequence[Row]) -> str:
    single = "In brackets: the 95 % interval of a single run, by a bootstrap over anchors (retrieval: over queries)."
    several = "±: the standard deviation over the seeds, which share one test."
    averaged = {len(row.runs) > 1 for row in rows}
    return " ".join(text for text, over_seeds in ((single, False), (several, True)) if over_seeds in averaged)


def _table(head: Sequence[str], lines: Sequence[tuple[str, Any, Sequence[str]]]) -> str:
    rows = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *([label, str(n), *cells] for label, n, cells in lines)]
    return "\n".join("| " + " | ".join(map(_text, row)) + " |" for row in rows)


def _text(text: str) -> str:
    """A name as plain text in Markdown: it cannot end a cell or be read as markup."""
    if set(text) <= set("-:"):
        return text
    text = " ".join(text.split())
    if not re.search(r"[\\`*\[\]<>#|~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", text):
        return text
    return re.sub(r"([\\`*_{}\[\]<>#|!~&])", lambda match: f"&#{ord(match[1])};", text)


def table_csv(sections: Sequence[Section]) -> str:
    """One line per figure of a row: the mean and deviation over seeds, or the interval of a single one."""
    lines = ["section masks training_triplets measure condition seeds mean deviation low high".split()]
    for number, row, measure, condition in _cells(sections):
        mean, deviation, ends, seeds = summarise(row, measure, condition)
        about = (number, row.label, row.triplets, measure, condition)
        lines.append((*about, seeds, mean, deviation, *(ends or ("", ""))))
    return _csv(lines)


def runs_csv(sections: Sequence[Section]) -> str:
    """One line per figure of a run."""
    lines = ["section run variant seed step training_triplets measure condition value low high count".split()]
    for number, row, measure, condition in _cells(sections):
        for run in row.runs:
            about = (run.name, run.config.variant, run.config.seed, run.results.step, row.triplets)
            lines.append((number, *about, measure, condition, *run.results.figure(condition, measure)))
    return _csv(lines)


def _cells(sections: Sequence[Section]) -> Iterator[tuple[int, Row, str, str]]:
    for number, section in enumerate(sections, 1):
        for measure in ("triplet_error", *shared_measures(section)):
            for row in section.rows:
                for condition in (*section.conditions, *(("overall",) if measure == "triplet_error" else ())):
                    yield number, row, measure, condition


def _csv(lines: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()
