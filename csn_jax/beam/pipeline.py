"""The pipeline: parts, spread over workers, each written by one of them. The only importer of Beam here."""

import io
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

from csn_jax.beam.worker import Job, Worker
from csn_jax.errors import MachineError, UserError
from csn_jax.runtime import starting
from csn_jax.text import first_sentence


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Beam says while it is imported, and below warnings while it runs."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


try:
    with _quiet():
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.utils.shared import Shared
except ImportError as error:
    raise UserError(
        f"csn_jax beam needs Apache Beam, which cannot be imported ({first_sentence(error)}); install csn_jax[beam]."
    ) from None

RESUME = "finished parts are kept: run the same command again to resume."
LEFT_OUT = "left_out"  # the side output: (row from 0, id, what is wrong with it)


class WriteParts(beam.PTransform):
    """Names of parts to the names of their files. `LEFT_OUT` names the items that no part holds."""

    def __init__(self, job: Job):
        super().__init__()
        self._job = job

    def expand(self, names: beam.PCollection) -> Any:
        return (
            names
            | "spread" >> beam.Reshuffle()
            | "embed" >> beam.ParDo(_WritePart(self._job)).with_outputs(LEFT_OUT, main="parts")
        )


class _WritePart(beam.DoFn):
    def __init__(self, job: Job):
        self._job, self._shared = job, Shared()
        self._starter = socket.gethostname(), os.getpid()

    def setup(self) -> None:
        _end_with(*self._starter)
        self._worker = self._shared.acquire(lambda: Worker(self._job))  # threads of a process share the model

    def process(self, name: str) -> Iterator[Any]:
        with self._worker.lock:
            left_out = self._worker.make(name)
        for item in left_out:
            yield beam.pvalue.TaggedOutput(LEFT_OUT, item)
        yield name


def _end_with(host: str, starter: int) -> None:
    """End this worker when the process that started the pipeline ends, if it is on this machine: workers of the direct
    runner would wait for it without end."""
    if socket.gethostname() != host or os.getpid() == starter or not os.path.exists(f"/proc/{starter}"):
        return

    def watch() -> None:
        while os.path.exists(f"/proc/{starter}"):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_pipeline(job: Job, names: Sequence[str], options: str) -> None:
    """Write parts, on the runner that the options name. A UserError for options that Beam does not take; a
    MachineError if a part fails."""
    words = [f"--{word}" for word in options.split(",") if word]
    said = io.StringIO()
    try:
        with redirect_stderr(said):  # argparse prints pages
            parsed = PipelineOptions([*words, "--default_sdk_harness_log_level=ERROR"])
            parsed.get_all_options(drop_default=True)
    except SystemExit:
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise UserError(
            f"--beam_pipeline_options={options} is not what Beam takes ({reason}); give NAME=VALUE,NAME=VALUE."
        ) from None
    try:
        with _ended_by_deaths(), beam.Pipeline(options=parsed) as pipeline:
            _ = pipeline | "parts" >> beam.Create(list(names)) | "write" >> WriteParts(job)
    except Exception as error:  # each runner wraps what a worker raises
        raise _as_ours(error) from None


@contextmanager
def _ended_by_deaths() -> Iterator[None]:
    """End our command when a worker process of the direct runner dies: Beam would wait for it without end, in a place
    that no exception reaches. Other runners start another worker."""
    before = threading.excepthook

    def hook(event: Any) -> None:
        if starting.is_command() and event.thread and event.thread.name == "run_worker":
            os.write(2, f"error: a worker process died ({first_sentence(event.exc_value)}); {RESUME}\n".encode())
            os._exit(1)
        before(event)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _as_ours(error: Exception) -> Exception:
    """What a worker raised, without what Beam adds; of another process, by its text."""
    if isinstance(error, UserError | MachineError):
        return type(error)(str(error).partition(" [while running")[0])
    found = re.findall(r"csn_jax\.errors\.(UserError|MachineError): (.*?)(?: \[while running|\n|$)", str(error))
    if found:
        kind, message = found[-1]
        return {"UserError": UserError, "MachineError": MachineError}[kind](message)
    reason = f"{type(error).__name__}: {first_sentence(error)}"
    return MachineError(f"the pipeline failed ({reason}); {RESUME}")
