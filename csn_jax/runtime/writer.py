"""What a run records (metrics.jsonl, timing.jsonl, TensorBoard events), and what the terminal shows of it."""

import errno
import io
import json
import os
import shlex
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from csn_jax.runtime import hosts
from csn_jax.runtime.event_file import EventFile
from csn_jax.runtime.workdir import write_atomically
from csn_jax.text import duration


class Writer:
    """The records of a run. Of several processes only the first writes them.

    metrics.jsonl holds no wall-clock figure, so that a resumed run writes the same bytes.
    """

    def __init__(self, workdir: Path, start: int):
        """Open the records and remove what they have of later steps than `start`: the run writes these again."""
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
        """Force metrics.jsonl to the disk. Call it before a checkpoint, so that the log never lags behind one."""
        os.fsync(self._metrics.fileno())
        self._board.flush()

    def close(self) -> None:
        self._metrics.close()
        self._timing.close()
        self._board.close()


class NoWriter:
    """The writer of the other processes: it takes the same calls and writes nothing."""

    def log(self, *_: object) -> None:
        pass

    log_timing = flush = close = log


def open_writer(workdir: Path, start: int) -> Writer | NoWriter:
    """The records of a run from step `start` on; only the first process writes."""
    return Writer(workdir, start) if hosts.is_first() else NoWriter()


def _append(file: io.FileIO, step: int, values: dict[str, float]) -> None:
    line = json.dumps({"step": step} | values).encode() + b"\n"
    if file.write(line) < len(line):  # the disk is about to be full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)


def _cut_back(path: Path, step: int) -> io.FileIO:
    """Open a log for appending, without the lines of later steps than `step` and without a torn last line."""
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
    """Progress of long work: a bar with rate and time left on a terminal, a plain line every few seconds elsewhere.

    Rate and time left count from the end of the first step, which may take much longer than the others.
    """

    SECONDS = 5  # between two plain lines

    def __init__(self, what: str, total: int, done: int = 0, unit: str = "item", *, compiles: bool = False):
        """Show work of `total` units, `done` of them by an earlier process; `compiles`: the first step compiles."""
        self._what, self._total, self._done, self._unit, self._shown = what, total, done, unit, {}
        self._counted_from, self._compiles, self._steps = done, compiles, 0
        self._began = self._last_line = time.perf_counter()
        self._bar = None
        if sys.stderr.isatty() and hosts.is_first():
            from tqdm import tqdm

            options = {"unit": f" {unit}s", "unit_scale": True, "dynamic_ncols": True}
            self._bar = tqdm(desc="compiling" if compiles else what, total=total, initial=done, **options)
        elif compiles and done < total:
            say(f"{what}: compiling")

    def advance(self, n: int, **shown: Any) -> None:
        """Count n more units as done; `shown` stands beside the rate until it is shown anew."""
        self._done += n
        self._steps += 1
        self._shown |= shown
        now = time.perf_counter()
        if self._steps == 1:
            self._end_first_step(now)
        if self._bar:
            self._bar.set_postfix(self._shown, refresh=False)
            self._bar.update(n if self._steps > 1 else 0)
        elif now - self._last_line >= self.SECONDS or self._done == self._total:
            self._last_line = now
            say(f"{self._what} {self._done / self._total:4.0%}  {', '.join(self._figures(now))}".rstrip())

    def _end_first_step(self, now: float) -> None:
        if self._compiles:
            say(f"{self._what}: compiled in {duration(now - self._began)}")
            self._last_line = now
        self._began, self._counted_from = now, self._done
        if self._bar:  # its rate is counted from here, too
            self._bar.set_description(self._what, refresh=False)
            self._bar.start_t = self._bar.last_print_t = self._bar._time()
            self._bar.n = self._bar.initial = self._bar.last_print_n = self._done

    def _figures(self, now: float) -> list[str]:
        figures = []
        if self._done > self._counted_from:
            rate = (self._done - self._counted_from) / max(now - self._began, 1e-9)
            figures.append(f"{rate:,.{0 if rate >= 10 else 1}f} {self._unit}s/s")
            figures.append(f"{duration((self._total - self._done) / rate)} left")
        return figures + [f"{name} {value}" for name, value in self._shown.items()]

    def close(self) -> None:
        if self._bar:
            self._bar.close()


def say(text: str) -> None:
    """Print a line on standard error, above the bar if there is one; standard output is for results. Of several
    processes only the first prints. A training does not end because its reader has gone."""
    if not hosts.is_first():
        return
    with suppress(OSError):
        if sys.stderr.isatty():
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


def next_step(*words: object) -> None:
    """One line on standard error with the command to run next, ready to paste: `next: csn_jax evaluate --workdir=run`.
    Words are a command of csn_jax and its arguments; or, when the first is `python`, any program of this Python."""
    first, *rest = map(str, words)
    start = [_from_here(Path(sys.executable)), *rest] if first == "python" else [*_csn_jax(), first, *rest]
    say(f"next: {shlex.join(start)}")


def _csn_jax() -> list[str]:
    """The words that start this installation's `csn_jax` in the folder that the shell is in."""
    script = Path(sys.executable).with_name("csn_jax")
    if not script.is_file():
        return [_from_here(Path(sys.executable)), "-m", "csn_jax"]
    found = shutil.which("csn_jax")
    return ["csn_jax" if found and script.samefile(found) else _from_here(script)]


def _from_here(path: Path) -> str:
    with suppress(ValueError, FileNotFoundError):  # elsewhere, or the shell's folder was removed
        return str(path.relative_to(Path.cwd()))
    return str(path)
