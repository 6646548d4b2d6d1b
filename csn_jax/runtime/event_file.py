"""TensorBoard event files of scalars: a TFRecord file of small protocol buffers, written here.

tensorboardX imports PyTorch if it is installed, which takes seconds at every start. It writes from a thread, and waits
forever after a full disk has ended that thread.
"""

import socket
import struct
import time
from pathlib import Path

TABLE = list(range(256))  # of the checksum of each byte
for _ in range(8):
    TABLE = [crc >> 1 ^ (0x82F63B78 if crc & 1 else 0) for crc in TABLE]  # Castagnoli's polynomial, reflected


class EventFile:
    """One event file. TensorBoard reads all of a folder as one run."""

    def __init__(self, folder: Path, start: int):
        """Open a new file, and have TensorBoard drop earlier values of steps after `start`."""
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{time.time_ns() % 10**9:09}"
        self._file = open(folder / name, "wb")
        self._event(0, _bytes(3, b"brain.Event:2"))
        self._event(start + 1, _bytes(7, _varint(1, 1)))  # session_log: START

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Record values at a step."""
        for name, value in values.items():
            self._event(step, _bytes(5, _bytes(1, _bytes(1, name.encode()) + b"\x15" + struct.pack("<f", value))))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _event(self, step: int, what: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + _varint(2, step) + what
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc(length) + event + _masked_crc(event))


def _varint(field: int, value: int) -> bytes:
    encoded = bytearray([field << 3])
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _bytes(field: int, value: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(0, len(value))[1:] + value


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
