"""What can go wrong with an object, by name, so that a caller can act on it."""

from typing import NamedTuple

from metasr.errors import StoreError


class NotThereError(StoreError):
    """There is no such object, or not even its folder or bucket."""


class AlreadyThereError(StoreError):
    """`put_new` found an object under that key. What is there stays as it is."""


class ChangedError(StoreError):
    """`replace` did not find the version it was to replace. What is there stays as it is."""


class DamagedError(StoreError):
    """The bytes are not those that were stored or expected, also when they are fetched again."""


class UnavailableError(StoreError):
    """The server cannot be reached or does not answer as it should, although it was asked again: waiting may help."""


class BusyError(UnavailableError):
    """The server answers that it cannot serve the request now (429, 503, SlowDown), and did so again."""


class ConditionFailedError(Exception):
    """What a `put_new` or a `replace` asks for is not so. For the store's own parts: callers get one of the above."""


class WrongBodyError(Exception):
    """Bytes that are not those that were stored or expected. For the store's own parts, as above.

    Attributes:
        again: Whether fetching them again may help.
    """

    def __init__(self, why: str, again: bool) -> None:
        super().__init__(why)
        self.again = again


class Reason(NamedTuple):
    """Why an operation failed.

    Attributes:
        why: The cause, as far as it is known. Without secrets.
        fix: What to do about it, in the imperative.
        kind: What the caller gets.
        retry: What such failures are counted as. Empty if asking again would not help.
    """

    why: str
    fix: str
    kind: type[StoreError] = StoreError
    retry: str = ""


NO_OBJECT = Reason("there is no such object", "Check the key and the URL of the store", NotThereError)


def wrong_body(error: WrongBodyError) -> Reason:
    """Explain bytes that are not the right ones."""
    return Reason(
        str(error),
        "Restore the object from a copy, or write it anew",
        DamagedError,
        "wrong body" if error.again else "",
    )
