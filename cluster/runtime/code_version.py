"""Which code is running."""

import re
import subprocess
from pathlib import Path

from metasr import __version__

ROOT = Path(__file__).resolve().parents[2]
UPLOAD = "_ray_pkg_"


def code_version(root: Path = ROOT) -> str:
    """Return the git commit of the checkout, with `+changes` if files differ from it.

    A submitted job has no checkout. If `.git/HEAD` and the refs came along (see `.rayignore`), the commit is read
    from them; otherwise this is the package's version with the name of Ray's upload, a hash of all files in it.
    """
    try:
        status = _git(root, "status", "--porcelain", "--untracked-files=no")
        return _git(root, "rev-parse", "HEAD") + ("+changes" if status else "")
    except (OSError, subprocess.CalledProcessError):
        return _commit_from_refs(root / ".git") or f"{__version__}{_upload(root)}"


def _git(root: Path, *arguments: str) -> str:
    # Only this checkout counts, not a repository that happens to lie around an installed package.
    command = ["git", f"--git-dir={root / '.git'}", f"--work-tree={root}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _commit_from_refs(git: Path) -> str | None:
    try:
        head = (git / "HEAD").read_text().strip()
        if head.startswith("ref: "):
            name = head.removeprefix("ref: ")
            loose = git / name
            packed = git / "packed-refs"
            text = loose.read_text() if loose.is_file() else packed.read_text()
            match = re.search(rf"^([0-9a-f]{{40}})(?: {re.escape(name)})?$", text, re.MULTILINE)
            return match[1] if match else None
    except OSError:
        return None
    return head


def _upload(root: Path) -> str:
    """Return what Ray calls the upload that code came with, as its folder is called on driver and nodes."""
    return f"+{root.name.removeprefix(UPLOAD)}" if root.name.startswith(UPLOAD) else ""
