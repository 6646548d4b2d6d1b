"""Write labels that would be markup or code into the page of explore and into a report, and open both in a browser.

    python experiments/reliability/hostile_labels.py --labels=1000

Each label is an item's id, its value in three columns, and in turn the name of a condition and of the run. In Chromium
every item of the page is chosen once: elements and attributes must be those of a page with harmless labels, no script
may run, nothing may be asked of a network, and ids, values and names must be read back from the document as they were.
The report's Markdown is rendered with HTML allowed, and its CSV read again. Ends with one line of JSON; exits 1
otherwise.
"""

import argparse
import csv
import difflib
import io
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

ITEMS, WIDTH, NOTIONS = 250, 8, 3  # of a page
LOCAL = ("file:", "data:", "blob:")
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
PARTS = [
    "</script><script>window.hacked=1</script>",
    '<img src=x onerror="window.hacked=1">',
    "<svg/onload=window.hacked=1>",
    "\"><svg onload='window.hacked=1'>",
    "' onmouseover='window.hacked=1",
    "<!--<script>",
    "-->",
    "]]>",
    "<![CDATA[",
    "</ScRiPt >",
    "<base href=//example.invalid/>",
    "<meta http-equiv=refresh content='0;url=//example.invalid'>",
    "<iframe src=//example.invalid>",
    "javascript:window.hacked=1",
    "data:text/html,<script>window.hacked=1</script>",
    "</title><b>",
    "</textarea>",
    "<style>*{display:none}",
    "\u2028\u2029",
    "x\x00y",
    "\x01\x1b[31m",
    "\u202egnp.exe",
    "\u200b\ufeff",
    "bad\udcff.png",
    "\ud800",
    "\U0001f600",
    "&lt;b&gt;&#60;",
    "&amp;",
    "{{7*7}}",
    "${window.hacked=1}",
    "`${window.hacked=1}`",
    "\\u003cscript\\u003e",
    "\\",
    '"',
    "'",
    "`",
    "``````",
    "```\n<b>x</b>\n```",
    "\r\n",
    "\n\n<b>x</b>\n\n",
    "\t",
    " ",
    "__proto__",
    "constructor",
    "toString",
    "null",
    "-0",
    "=1+1",
    "@SUM(A1)",
    "|",
    "| --- |",
    "[x](javascript:window.hacked=1)",
    "![x](//example.invalid/y.png)",
    "<http://example.invalid>",
    "# x",
    "***",
    "~~~\n<b>\n",
    "$\\frac{1}{0}$",
    "../../etc/passwd",
    "C:\\x",
    "a" * 2000,
    "%3Cb%3E",
    "\\3c b\\3e",
    "/*",
    "*/",
    "url(//example.invalid)",
    "\U0001d54f \xfcn\xef",
]


def labels_of(n: int, seed: int) -> list[str]:
    """n different labels: each part alone, and then two to four together."""
    rng, found = random.Random(seed), dict.fromkeys(PARTS)
    while len(found) < n:
        found["".join(rng.choices(PARTS, k=rng.randint(2, 4)))] = None
    return list(found)[:n]


def page_of(labels: list[str], out: Path) -> Path:
    """The page of explore over as many items as labels; its index.html."""
    from csn_jax.data.item_set import Condition, ItemSet
    from csn_jax.explore import folder
    from csn_jax.explore.items import of_rows
    from csn_jax.runtime.record import Results
    from csn_jax.runtime.whole import write_folder

    n, rng = len(labels), np.random.default_rng(0)
    names = [labels[0], labels[n // 2], labels[-1]]
    conditions = tuple(Condition(name, "categorical") for name in names)
    columns = {name: np.array(labels) for name in names}
    inputs = rng.integers(0, 256, (n, 8, 8, 3), np.uint8)
    items = ItemSet(inputs, np.array(labels), columns, np.array(["test"] * n), conditions, conditions)
    masks = np.maximum(rng.normal(0.5, 0.5, (NOTIONS, WIDTH)), 0).astype(np.float32)
    results = Results.from_object(results_of(names) | {"variant": "learned", "split": "test", "step": 7})
    about = {"run": labels[1], "variant": "learned", "split": "test", "step": 7, "total": n, "seed": 0}
    vectors = rng.normal(size=(n, WIDTH)).astype(np.float32)
    shown = of_rows(items, np.arange(n), vectors, names, masks, results, about)
    write_folder(out, folder.page_files(shown, "https://example.invalid/{id}"), folder.OURS, folder.MARK)
    return out / "index.html"


def results_of(names: list[str]) -> dict:
    """The part of results.json that pages and reports show."""
    return {
        "conditions": names,
        "triplet_error": {"overall": 0.25, "by_condition": dict.fromkeys(names, 0.25)},
        "ci95": {"overall": [0.2, 0.3], "by_condition": {name: [0.2, 0.3] for name in names}},
        "n_triplets": {"overall": 300, "by_condition": dict.fromkeys(names, 100)},
    }


# Of each item when it is chosen: whether the document shows its id and values as they are, and its elements.
VISIT = """() => {
  const units = text => Array.from({length: text.length}, (_, i) => text.charCodeAt(i));
  const outline = () => [...document.querySelectorAll("*")].map(e => e.tagName + " " + e.getAttributeNames().sort());
  const wrong = [], outlines = [];
  for (const facet of document.querySelectorAll("#facets details")) facet.open = true;
  for (let i = 0; i < ids.length; i++) {
    choose(i);
    select([i]);
    const shown = [...document.querySelectorAll("#chosen dd")].map(e => e.textContent);
    const values = valuesOf(i).slice(0, 8).map(pair => pair[1]);
    if (document.getElementById("chosen-id").textContent !== ids[i]) wrong.push(["id", i]);
    if (JSON.stringify(shown) !== JSON.stringify(values)) wrong.push(["values", i]);
    if (document.getElementById("said").textContent !== `Chosen: ${ids[i]}`) wrong.push(["said", i]);
    outlines.push(outline().join("\\n"));
  }
  const rows = [...document.querySelectorAll("#errors-rows tr")].slice(0, -1);
  const named = rows.map(row => row.firstElementChild.textContent);
  return {wrong, outlines, ids: ids.map(units), named: named.map(units), hacked: typeof window.hacked};
}"""


def units(text: str) -> list[int]:
    """UTF-16 code units, as a browser counts."""
    data = text.encode("utf-16-le", "surrogatepass")
    return [data[i] + 256 * data[i + 1] for i in range(0, len(data), 2)]


def explored(browser, labels: list[str], folder: Path, faults: list[str]) -> int:
    """Compare pages of hostile labels with one of harmless ones; how many labels were shown."""
    outlines, shown = None, 0
    harmless = [f"label {i}" for i in range(ITEMS)]
    for start in range(-ITEMS, len(labels), ITEMS):
        some = harmless if start < 0 else labels[start : start + ITEMS]
        some += harmless[len(some) :]
        context, asked = browser.new_context(), []
        page = context.new_page()
        page.on("request", lambda one, asked=asked: None if one.url.startswith(LOCAL) else asked.append(one.url))
        for event in ("pageerror", "console", "requestfailed", "dialog"):
            page.on(event, lambda what, asked=asked, event=event: asked.append(f"{event}: {what}"))
        page.goto(page_of(some, folder / f"page {start}").as_uri())
        page.wait_for_timeout(500)
        found = page.evaluate(VISIT)
        names = [some[0], some[ITEMS // 2], some[-1]]
        outlines = outlines or found["outlines"]
        checks = {
            "asked or complained": asked,
            "ran": [] if found["hacked"] == "undefined" else [found["hacked"]],
            "not shown as they are": found["wrong"],
            "ids not read back": [i for i in range(ITEMS) if found["ids"][i] != units(some[i])],
            "names not read back": [i for i in range(NOTIONS) if found["named"][i] != units(names[i])],
            "other elements": [
                other(*pair) for pair in zip(found["outlines"], outlines, strict=True) if pair[0] != pair[1]
            ],
        }
        faults += [f"page {start}: {what}: {str(which)[:500]}" for what, which in checks.items() if which]
        shown += 0 if start < 0 else min(ITEMS, len(labels) - start)
        context.close()
    return shown


def other(ours: str, theirs: str) -> list[str]:
    """Where two outlines differ."""
    return [line for line in difflib.ndiff(theirs.split("\n"), ours.split("\n")) if line[0] in "+-"][:10]


def reported(browser, labels: list[str], faults: list[str]) -> int:
    """Compare rendered reports of hostile names with those of harmless ones; how many names were read back."""
    import made_runs
    from markdown_it import MarkdownIt

    from csn_jax.report import text as report_text
    from csn_jax.report.runs import arrange

    render = MarkdownIt("commonmark", {"html": True}).enable("table").render
    outline = """() => [...document.body.querySelectorAll("*")]
        .map(e => e.tagName + " " + e.getAttributeNames()).join("\\n")"""
    heads = """() => [...document.querySelector("table").querySelectorAll("th")].map(e => e.textContent)"""
    read, outlines = 0, {}
    for start in range(0, len(labels), 20):
        some = [label for label in labels[start : start + 20] if printable(label)]
        for names in ([f"name {i}" for i in range(len(some))], some):
            run = made_runs.make_run(names[0], made_runs.config("learned"), (0.25,) * len(names), names=names)
            sections = arrange([run])
            text = report_text.markdown(
                sections, [[report_text.Picture("map.png", names[0], names[-1], b"")]], [names[0]]
            )
            page = browser.new_page()
            page.set_content(f"<!doctype html><body>{render(text)}")
            outlines[names is some] = page.evaluate(outline)
            if names is some:
                found = page.evaluate(heads)[2:-1]
                wrong = [i for i, (a, b) in enumerate(zip(found, names, strict=True)) if a != " ".join(b.split())]
                if wrong or page.evaluate("typeof window.hacked") != "undefined":
                    faults.append(f"report {start}: shown otherwise: {[(names[i], found[i]) for i in wrong[:3]]}")
                table = csv.DictReader(io.StringIO(report_text.table_csv(sections), newline=""))
                if [line["condition"] for line in table][: len(names)] != names:
                    faults.append(f"report {start}: the CSV reads back otherwise")
                read += len(names)
            page.close()
        if outlines[True] != outlines[False]:
            faults.append(f"report {start}: other elements: {other(outlines[True], outlines[False])}")
    return read


def printable(label: str) -> bool:
    """Whether a label shows in a text file: Markdown replaces NUL, no file holds half a surrogate pair, and blanks are
    nothing to see."""
    return bool(label.strip()) and "\x00" not in label and not any(0xD800 <= ord(one) < 0xE000 for one in label)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labels", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    labels, faults, began = labels_of(args.labels, args.seed), [], time.monotonic()
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory(prefix="hostile_labels_") as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET.split())
        shown = explored(browser, labels, Path(folder), faults)
        read = reported(browser, labels, faults)
        version = browser.version
        browser.close()
    report = {"labels": len(labels), "seed": args.seed, "browser": f"Chromium {version}", "in_the_page": shown}
    report |= {"in_reports": read, "minutes": round((time.monotonic() - began) / 60, 1), "faults": faults}
    print(json.dumps(report))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
