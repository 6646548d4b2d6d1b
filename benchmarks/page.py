"""Write the tables of docs/PERFORMANCE.md from files of csn_jax.benchmark: python benchmarks/page.py FILE.json ..."""

import json
import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "PERFORMANCE.md"


def rows(report):
    """The lines of a table: the case, both sides, and the ratio with its range."""
    yield f"On {report['machine']}, {report['turns']} turn{'s' * (report['turns'] > 1)}.\n"
    yield "| | csn_jax | alternative | times better (range) |\n|---|---|---|---|"
    for result in report["results"]:
        ours, theirs = (
            "" if result[side] is None else f"{result[side]:,.0f}" if result[side] >= 1_000 else f"{result[side]:.3g}"
            for side in ("ours", "theirs")
        )
        ratio = "" if result["ratio"] is None else f"**{result['ratio']:.2f}**"
        if result["low"] != result["high"]:
            ratio += f" ({result['low']:.2f} to {result['high']:.2f})"
        yield f"| {result['name']}, {result['unit']} | {ours} | {theirs} | {ratio} |"


def main():
    text = PAGE.read_text()
    for path in sys.argv[1:]:
        report = json.loads(Path(path).read_text())
        table = "\n".join(rows(report))
        pattern = rf"(<!-- {report['suite']} -->\n).*?(<!-- end -->)"
        text, replaced = re.subn(
            pattern, lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text, flags=re.DOTALL
        )
        if not replaced:
            sys.exit(f"{PAGE} has no table for the suite {report['suite']}")
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
