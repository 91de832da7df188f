"""Why a command did nothing, or not all: exit code 1."""


class RefusedError(Exception):
    """Something was not done; the message says what, why and what to do. Safe to print."""
