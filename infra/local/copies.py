"""A copy of what a stack keeps, and a new stack from it: MLflow's databases, both buckets, and the secrets."""

import shutil
from pathlib import Path

from infra.local import database, services, storage
from infra.local.stack import BUCKET, MLFLOW_BUCKET, Stack, StackError, Tell, load_or_make, write_private


def backup(stack: Stack, folder: Path, tell: Tell) -> None:
    """Copy a running stack. Databases first: what they name is in the buckets by then.

    Args:
        stack: It keeps running, and so may trainings; what begins meanwhile may be missing in the copy.
        folder: A new one. It holds secrets.
        tell: Takes a line for each part.

    Raises:
        StackError: The folder exists, or a service is down.
    """
    if folder.exists():
        raise StackError(f"{folder} exists: name a new folder")
    folder.mkdir(mode=0o700, parents=True)
    for name in database.DATABASES:
        _dump(stack, name, folder / f"{name}.dump")
        tell(f"database {name}: {(folder / f'{name}.dump').stat().st_size} bytes")
    for bucket in (MLFLOW_BUCKET, BUCKET):
        tell(f"bucket {bucket}: {_fetch(stack, bucket, folder / bucket)} files")
    write_private(folder / "secrets.json", (stack.folder / "secrets.json").read_text())
    write_private(folder / "kind", f"{stack.database} {stack.storage}\n")  # last: the copy is whole


def restore(copy: Path, folder: Path, tell: Tell, *, any_ports: bool = False) -> Stack:
    """Make a new stack with what a copy holds; its databases and buckets run afterwards, the rest does not.

    Raises:
        StackError: The copy is not whole, there is a stack already, or it would be of another kind.
    """
    if not (copy / "kind").exists():
        raise StackError(f"{copy} is not a whole copy: `kind`, which is written last, is missing")
    if (folder / "stack.json").exists():
        raise StackError(f"there is a stack in {folder}: a copy becomes a new one (--folder)")
    folder.mkdir(parents=True, exist_ok=True)
    write_private(folder / "secrets.json", (copy / "secrets.json").read_text())
    stack = load_or_make(folder, tell, any_ports=any_ports)
    kind = (copy / "kind").read_text().split()
    if kind != [stack.database, stack.storage]:
        (folder / "stack.json").unlink()
        raise StackError(
            f"the copy is of {' and '.join(kind)}, this machine has {stack.database} and {stack.storage}"
        )
    services.up(stack, ["storage", "database"], tell)
    for name in database.DATABASES:
        _load(stack, name, copy / f"{name}.dump")
    for bucket in (MLFLOW_BUCKET, BUCKET):
        tell(f"bucket {bucket}: {_send(stack, bucket, copy / bucket)} files")
    return stack


def _dump(stack: Stack, name: str, file: Path) -> None:
    if stack.database == "sqlite":
        database.copy_sqlite(stack.place("mlflow") / f"{name}.db", file)
        return
    with file.open("wb") as output:
        database.run("pg_dump", *database.as_owner(stack), "--format=custom", f"--dbname={name}", output=output)


def _load(stack: Stack, name: str, file: Path) -> None:
    if stack.database == "sqlite":
        shutil.copyfile(file, stack.place("mlflow") / f"{name}.db")
        return
    options = ["--format=custom", "--exit-on-error", f"--dbname={name}"]
    with file.open("rb") as typed:
        database.run("pg_restore", *database.as_owner(stack), *options, typed=typed)


def _fetch(stack: Stack, bucket: str, folder: Path) -> int:
    """Copy a bucket into a folder; return how many files there were. Each arrives with the checksum S3 gives it."""
    folder.mkdir(mode=0o700)
    if stack.storage == "folder":
        shutil.copytree(stack.bucket(bucket), folder, dirs_exist_ok=True)
        return sum(path.is_file() for path in folder.rglob("*"))
    s3, count = storage.client(stack), 0
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            file = folder / entry["Key"]
            if not file.resolve().is_relative_to(folder.resolve()):
                raise StackError(f"bucket {bucket}: the name {entry['Key']!r} leads out of the copy")
            file.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, entry["Key"], str(file))
            count += 1
    return count


def _send(stack: Stack, bucket: str, folder: Path) -> int:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if stack.storage == "folder":
        shutil.copytree(folder, stack.bucket(bucket), dirs_exist_ok=True)
        return len(files)
    s3 = storage.client(stack)
    for file in files:
        s3.upload_file(str(file), bucket, file.relative_to(folder).as_posix())
    return len(files)
