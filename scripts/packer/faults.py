"""The one error of packaging: what happened, and what to do."""


class PackageError(Exception):
    """
    The package cannot be made, or is not what it should be; nothing was left in dist/.

    ``str`` is meant for the person at the terminal.
    """

    def __init__(self, what: str, remedy: str) -> None:
        self.what, self.remedy = what, remedy
        super().__init__(f"{what}\n  what to do: {remedy}")
