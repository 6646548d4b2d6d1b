"""What a run tells: metrics.jsonl, TensorBoard, timing.jsonl, and the terminal."""

import errno
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from csn_jax.runtime import hosts
from csn_jax.runtime.event_file import EventFile
from csn_jax.runtime.workdir import write_atomically


class Writer:
    """Records of a run, which of several processes the first one writes.

    metrics.jsonl holds no wall-clock figure, so that a resumed run writes the same bytes.
    """

    def __init__(self, workdir: Path, start: int):
        """Open the records, cutting back what was written after step `start`, which will be written again."""
        self._metrics, self._timing = (_cut_back(workdir / f"{name}.jsonl", start) for name in ("metrics", "timing"))
        self._board = EventFile(workdir, start)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record values at a step, in metrics.jsonl and TensorBoard."""
        _append(self._metrics, step, values)
        self._board.scalars(step, values)

    def log_timing(self, step: int, values: dict[str, float]) -> None:
        """Record wall-clock figures at a step, in timing.jsonl and TensorBoard."""
        _append(self._timing, step, values)
        self._board.scalars(step, {f"timing/{name}": value for name, value in values.items()})

    def flush(self) -> None:
        """Force metrics.jsonl to the disk. Before a checkpoint of a step, so that the log never lags behind it."""
        os.fsync(self._metrics.fileno())
        self._board.flush()

    def close(self) -> None:
        self._metrics.close()
        self._timing.close()
        self._board.close()


class NoWriter:
    """The writer of a process that is not the first: it takes the same calls and writes nothing."""

    def log(self, step: int, values: dict[str, float]) -> None:
        pass

    log_timing = log

    def flush(self) -> None:
        pass

    close = flush


def _append(file: io.FileIO, step: int, values: dict[str, float]) -> None:
    line = json.dumps({"step": step} | values).encode() + b"\n"
    if file.write(line) < len(line):  # what happens just before a disk is full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)


def _cut_back(path: Path, step: int) -> io.FileIO:
    """Open a log for appending, without its lines after a step and without a torn last line."""
    kept = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            pass
    write_atomically(path, b"".join(kept))
    return open(path, "ab", buffering=0)


class Progress:
    """Progress of long work: a bar with rate and time left on a terminal, a plain line every few seconds elsewhere."""

    SECONDS = 5  # between two plain lines

    def __init__(self, what: str, total: int, done: int = 0, unit: str = "item"):
        self._what, self._total, self._done, self._unit, self._shown = what, total, done, unit, {}
        self._first, self._began = done, time.perf_counter()
        self._told, self._bar = self._began, None
        if sys.stderr.isatty() and hosts.is_first():
            from tqdm import tqdm

            self._bar = tqdm(
                desc=what, total=total, initial=done, unit=f" {unit}s", unit_scale=True, dynamic_ncols=True
            )

    def advance(self, n: int, **shown: Any) -> None:
        """n more units are done; `shown` stands beside the rate until it is shown anew."""
        self._done += n
        self._shown |= shown
        if self._bar:
            self._bar.set_postfix(self._shown, refresh=False)
            self._bar.update(n)
            return
        now = time.perf_counter()
        if now - self._told >= self.SECONDS or self._done == self._total:
            self._told = now
            rate = (self._done - self._first) / max(now - self._began, 1e-9)
            figures = [f"{rate:,.0f} {self._unit}s/s", f"{(self._total - self._done) / rate:.0f} s left"]
            figures += [f"{name} {value}" for name, value in self._shown.items()]
            say(f"{self._what} {self._done / self._total:4.0%}  {', '.join(figures)}")

    def close(self) -> None:
        if self._bar:
            self._bar.close()


def say(text: str) -> None:
    """One line for people, on standard error, above the bar if there is one. Results alone go to standard output. Of
    several processes only the first speaks."""
    if not hosts.is_first():
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr, flush=True)
