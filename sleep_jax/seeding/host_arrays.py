"""Arrays of a night on the host: in memory as far as a bound allows, the others in a temporary file
that is mapped.

The file is in the folder that TMPDIR names (/tmp by default), on the disk of each machine. It has
no name, so that the system deletes it when the night is over, however the process ends.
"""

import math
import mmap
import os
import tempfile

import numpy as np

SEGMENT = 2**30  # bytes that are mapped at once; Linux bounds the number of maps
ALIGNMENT = 64  # bytes, of arrays within a segment


class HostArrays:
    """Makes empty arrays.

    Args:
      most_bytes: that they take of the memory; those beyond it are on disk.

    Attributes:
      in_memory, on_disk: bytes of the arrays so far.
    """

    def __init__(self, most_bytes: float = math.inf):
        self._most = most_bytes
        self._file = None
        self._segments: list[mmap.mmap] = []
        self._used = 0  # bytes of the last segment
        self.in_memory = self.on_disk = 0

    def empty(self, shape: tuple[int, ...], dtype) -> np.ndarray:
        """A new array with any values.

        Raises:
          OSError: the disk is full.
        """
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if self.in_memory + size <= self._most:
            self.in_memory += size
            return np.empty(shape, dtype)
        start = -(-self._used // ALIGNMENT) * ALIGNMENT
        if not self._segments or start + size > len(self._segments[-1]):
            self._add_segment(max(SEGMENT, size))
            start = 0
        self._used, self.on_disk = start + size, self.on_disk + size
        flat = np.frombuffer(self._segments[-1], dtype, math.prod(shape), start)
        return flat.reshape(shape)

    def let_go(self) -> None:
        """Takes what is on disk out of the memory of this process, without a change to it; what is
        used again is read again."""
        for segment in self._segments if hasattr(mmap, "MADV_DONTNEED") else ():
            segment.madvise(mmap.MADV_DONTNEED)

    def _add_segment(self, size: int) -> None:
        """Maps a further part of the file, for which the disk has room."""
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115, as long as its arrays
        size = -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        start = sum(map(len, self._segments))
        try:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not when it is used
                os.posix_fallocate(self._file.fileno(), start, size)
            else:
                self._file.truncate(start + size)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{tempfile.gettempdir()} has no room for {start + size} bytes of hidden states "
                f"({error.strerror}); raise seeding.teacher_memory, or name a folder on another "
                "disk by TMPDIR",
            ) from error
        self._segments.append(mmap.mmap(self._file.fileno(), size, offset=start))
