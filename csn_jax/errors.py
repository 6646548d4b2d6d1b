"""The two ways in which a command fails, and the one in which it is stopped. Any other exception is a bug."""

import signal


class UserError(Exception):
    """A mistake in the user's input: one sentence that names the place, the value and the fix. A command exits 2."""


class MachineError(Exception):
    """The machine or the arithmetic failed (disk full, NaN): one sentence. A command exits 1."""


class Stopped(BaseException):
    """A signal asked the run to end, and its state is saved. A command exits 143, or 130 after Ctrl-C. Like
    KeyboardInterrupt it is not an Exception: it may come between any two lines, and a handler must not take it for a
    failure of the code there."""

    def __init__(self, signum: int, step: int | None = None):
        where = "" if step is None else f" at step {step}"
        how = "interrupted" if signum == signal.SIGINT else f"stopped by signal {signum}"
        super().__init__(f"{how}{where}; run the same command again to resume")
        self.signum = signum
        self.step = step
