"""Files of a data set, and whether it is they or the way to them that is at fault when they cannot be read."""

import errno
from pathlib import Path

from metasr.errors import UnreachableError

# Of an OSError: a decoder's own, or a place beyond all files to which a damaged header leads.
OF_CONTENT = (None, errno.EINVAL, errno.EOVERFLOW)


def check_reached(path: Path, error: Exception) -> None:
    """Raise UnreachableError if an error in reading a file comes from the file system and not from what it holds."""
    if isinstance(error, OSError) and error.errno not in OF_CONTENT:
        reason = error.strerror or type(error).__name__
        raise UnreachableError(str(path), reason, "Check its mount, its disk and its rights") from error
