"""
What can go wrong with the state store, as types. Both stores raise these and nothing foreign.

    StoreError                 the store did not do what was asked
    ├── Conflict               a condition of the batch did not hold: nothing of it was written
    ├── StoreUnreachable       nothing was written: the request never left, or it was a read
    ├── StoreOutcomeUnknown    a commit left us and no clear answer came: read back before acting
    ├── StoreRefused           we may not: a permission, a role or a file mode is missing
    └── CorruptRecord          what is stored is not what this program writes

``ValueError`` (not in the tree) says that the caller asked for something no store can hold: a key or body
too long, the same key twice, a body that is not JSON. It is raised before anything is sent.
"""

from __future__ import annotations


class StoreError(Exception):
    """The store did not do what was asked."""


class Conflict(StoreError):
    """
    A condition of the batch did not hold, so nothing of the batch was written.

    ``key`` names the first write that could not be done: an Insert that found the key, or a Replace or
    Delete that met another etag or no record.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} was written by somebody else first")
        self.key = key

    def __reduce__(self) -> tuple[type[Conflict], tuple[str]]:
        """Pickle by key, because ``Exception`` would hand the message to ``__init__``."""
        return type(self), (self.key,)


class StoreUnreachable(StoreError):
    """Nothing was written: the request never left us, or it was a read that got no answer."""


class StoreOutcomeUnknown(StoreError):
    """A commit left us and no clear answer came. It may be written, now or in a moment: read back."""


class StoreRefused(StoreError):
    """The store refuses us. Waiting does not help; a permission, role or file mode is missing."""


class CorruptRecord(StoreError):
    """What is stored under a key, or the file as a whole, is not what this program writes."""
