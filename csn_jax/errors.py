"""The two ways in which a command of this package fails, and the one in which it is stopped. All else is a bug."""


class UserError(Exception):
    """A mistake in what the user gave: one sentence that names place, value and remedy. A command exits 2."""


class MachineError(Exception):
    """The machine or the arithmetic failed (disk full, NaN): one sentence. A command exits 1."""


class Stopped(BaseException):
    """A signal asked the run to end, and all that it had is saved. A command exits 143. Like KeyboardInterrupt no
    Exception: it may come between any two lines, where no handler should take it for a failure of what was going on."""

    def __init__(self, signum: int, step: int | None = None):
        where = "" if step is None else f" at step {step}"
        super().__init__(f"stopped by signal {signum}{where}; the same command goes on from there")
        self.signum = signum
        self.step = step
