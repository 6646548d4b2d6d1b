"""Writes the tables of docs/PERFORMANCE.md from files of csn_jax.benchmark: python benchmarks/page.py FILE.json ..."""

import json
import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "PERFORMANCE.md"


def rows(report):
    """A table's lines: what is measured, both sides, and how many times better with its range."""
    yield f"On {report['machine']}, {report['turns']} turn{'s' * (report['turns'] > 1)}.\n"
    yield "| | csn_jax | alternative | times better (range) |\n|---|---|---|---|"
    for one in report["results"]:
        ours, theirs = (
            "" if one[side] is None else f"{one[side]:,.0f}" if one[side] >= 1_000 else f"{one[side]:.3g}"
            for side in ("ours", "theirs")
        )
        ratio = "" if one["ratio"] is None else f"**{one['ratio']:.2f}** ({one['low']:.2f} to {one['high']:.2f})"
        if one["low"] is not None and one["low"] == one["high"]:
            ratio = f"**{one['ratio']:.2f}**"
        yield f"| {one['name']}, {one['unit']} | {ours} | {theirs} | {ratio} |"


def main():
    text = PAGE.read_text()
    for path in sys.argv[1:]:
        report = json.loads(Path(path).read_text())
        table = "\n".join(rows(report))
        pattern = rf"(<!-- {report['suite']} -->\n).*?(<!-- end -->)"
        text, found = re.subn(
            pattern, lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text, flags=re.DOTALL
        )
        if not found:
            sys.exit(f"{PAGE} has no place for the suite {report['suite']}")
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
