"""Atomic writes, safe reads, and hashes."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from conversion._errors import SpikefrontError


class FileError(SpikefrontError, OSError):
    """A file or directory cannot be read or written."""


def write_file(path: str | Path, data: bytes | str) -> Path:
    """Write ``data`` next to ``path``, then rename: after a crash the old file is still intact.

    Raises:
        FileError: The file cannot be written; no partial file is left.
    """
    path = Path(path)
    content = data.encode() if isinstance(data, str) else data
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def read_file(path: str | Path) -> bytes:
    """Read a file.

    Raises:
        FileError: The file cannot be read, or is a pipe, a device or a folder.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would block
            raise FileError(f"cannot read {path}: it is not a regular file")
        return Path(path).read_bytes()
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # a zero byte in the name
        raise FileError(f"cannot read {str(path)!r}: {error}") from error


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def tensors_sha256(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the concatenated values of tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous(memory_format=torch.contiguous_format)
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
