"""Errors that a user sees as one clear line: what is wrong, where, and what to do."""

from __future__ import annotations


class MaquetteError(Exception):
    """Base of all errors that the command prints without a traceback. ``exit_code`` is the process's."""

    exit_code = 1

    def __init__(self, what: str, fix: str = "") -> None:
        self.what, self.fix = what, fix
        super().__init__(f"{what.rstrip('.')}. {fix}".strip() if fix else what)


class BadInput(MaquetteError):
    """The request cannot be met as it was put: exit code 2. Raised before anything runs where that is possible."""

    exit_code = 2


class RunFailed(MaquetteError):
    """A stage failed on good input: exit code 1."""


class GateRefused(RunFailed):
    """A gate refused every attempt."""


class Cancelled(MaquetteError):
    """The user stopped the run; the store resumes from its finished stages and the last checkpoint."""

    exit_code = 130
