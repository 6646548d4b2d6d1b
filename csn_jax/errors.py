"""The two ways in which a command of this package fails. Everything else is a bug."""


class UserError(Exception):
    """A mistake in what the user gave: one sentence that names place, value and remedy. A command exits 2."""


class MachineError(Exception):
    """The machine or the arithmetic failed (disk full, NaN): one sentence. A command exits 1."""


class Stopped(Exception):
    """A signal asked the run to end; its state is saved. A command exits 128 + the signal's number, 143 for SIGTERM."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"stopped by signal {signum} at step {step}; the same command goes on from there")
        self.signum = signum
        self.step = step
