"""Errors with a meaning of their own."""


class UnrecoverableError(RuntimeError):
    """The run cannot continue; starting it again would end with the same error."""
