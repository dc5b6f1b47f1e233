"""Errors that say more than that something went wrong."""


class UnrecoverableError(RuntimeError):
    """A run that cannot go on: another start of it would end here, too."""
