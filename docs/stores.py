"""Run the Python code of stores.md on a file that embed wrote: `python docs/stores.py FILE.parquet`."""

import re
import sys
import tempfile
from pathlib import Path


def blocks(page: str) -> list[str]:
    """The Python code blocks of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def main(file: str) -> None:
    """Run the blocks one after the other, in one namespace."""
    from csn_jax import Index

    page = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        names = {"index": Index.open(file), "folder": Path(folder)}
        for block in blocks(page):
            exec(compile(block, "docs/stores.md", "exec"), names)  # noqa: S102


if __name__ == "__main__":
    main(sys.argv[1])
