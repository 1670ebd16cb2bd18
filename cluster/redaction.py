"""No secret in any line: what is logged, recorded or shown passes through here."""

import os
import re

_URL_USER = re.compile(r"//[^/\s\"']*@")
_URL_SECRET = re.compile(r"([?&](?:password|token)=)[^&\s\"']*", re.IGNORECASE)
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|PSEUDONYM_KEY")
_SHORTEST_SECRET = 6  # shorter values occur in any text
_LONGEST_LINE = 300


def without_password(text: str) -> str:
    """Return a text without the users and passwords of its URLs. Two URLs of one place stay equal."""
    return _URL_SECRET.sub(r"\1...", _URL_USER.sub("//", text))


def without_secrets(text: str) -> str:
    """Return a text without passwords of URLs, and without what secret environment variables hold."""
    text = without_password(text)
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    return text


def one_line(error: BaseException) -> str:
    """Return the first line of an error, without secrets; its type where it says nothing."""
    return _line(error, 0)


def last_line(error: BaseException) -> str:
    """Return the last line of an error, which says why after a traceback; otherwise as `one_line`."""
    return _line(error, -1)


def _line(error: BaseException, number: int) -> str:
    return without_secrets((str(error).strip() or type(error).__name__).splitlines()[number])[:_LONGEST_LINE]
