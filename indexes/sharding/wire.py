"""Messages between a gallery and the process of a shard: JSON, then arrays as they lie in memory.

Nothing is unpickled, and what a message can be made of is the closed list below.
"""

from __future__ import annotations

import json
import socket
import struct
from contextlib import suppress
from dataclasses import fields
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.approximate.faiss_kinds import FastScanConfig, HnswConfig, IvfConfig
from indexes.base import Hits, MemoryAccount
from indexes.exact.certificate import Certificate, CertifiedHits
from indexes.segmented.merging import SegmentsConfig
from indexes.sharding.shards import ShardPlan

_RECORDS = {
    record.__name__: record
    for record in (
        Certificate,
        CertifiedHits,
        FastScanConfig,
        Hits,
        HnswConfig,
        IvfConfig,
        MemoryAccount,
        SegmentsConfig,
        ShardPlan,
    )
}
_DTYPES = {"bool": np.bool_, "int64": np.int64, "float32": np.float32, "float64": np.float64}
_LENGTH = struct.Struct("<I")
_LONGEST_TEXT = 1 << 24

Arrays = list[NDArray[Any]]


class Wire:
    """One end of a stream socket that carries messages both ways.

    Any thread may send; one thread receives. A message is built of None, numbers, text, lists,
    arrays and the records of this package. After an error the stream is of no use.
    """

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._sending = Lock()

    def send(self, message: object) -> None:
        """Sends a message whole; `OSError` where the other end is gone."""
        arrays: Arrays = []
        body = _pack(message, arrays)
        shapes = [[array.dtype.name, array.shape] for array in arrays]
        text = json.dumps([body, shapes]).encode()
        assert len(text) <= _LONGEST_TEXT
        with self._sending:
            self._stream.sendall(_LENGTH.pack(len(text)) + text)
            for array in arrays:
                if array.nbytes:
                    self._stream.sendall(array.data.cast("B"))

    def receive(self) -> Any:
        """The next message; `EOFError` where the other end is gone."""
        (length,) = _LENGTH.unpack(self._text(_LENGTH.size))
        if length > _LONGEST_TEXT:
            raise EOFError("the stream is out of step")
        body, shapes = json.loads(self._text(length))
        arrays = [np.empty(shape, _DTYPES[dtype]) for dtype, shape in shapes]
        for array in arrays:
            if array.nbytes:
                self._fill(array.data)
        return _unpack(body, arrays)

    def end(self) -> None:
        """Ends the stream for both sides: who waits for a message gets `EOFError`."""
        with suppress(OSError):  # where the other end was faster, or ours is closed
            self._stream.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Gives the descriptor back, once the stream is ended and nobody receives any more."""
        with self._sending:
            self._stream.close()

    def _text(self, length: int) -> bytearray:
        text = bytearray(length)
        self._fill(memoryview(text))
        return text

    def _fill(self, room: memoryview) -> None:
        left = room.cast("B")
        while left:
            received = self._stream.recv_into(left)
            if not received:
                raise EOFError("the other end is gone")
            left = left[received:]


def _pack(value: object, arrays: Arrays) -> object:
    """JSON for the value; its arrays go to the list, and their places into the JSON."""
    if isinstance(value, np.ndarray):
        assert value.dtype.name in _DTYPES
        arrays.append(np.ascontiguousarray(value))
        return {"array": len(arrays) - 1}
    if isinstance(value, list | tuple):
        return [_pack(item, arrays) for item in value]
    name = type(value).__name__
    if _RECORDS.get(name) is type(value):
        content = {field.name: getattr(value, field.name) for field in fields(value)}
        return {"record": name, "fields": {key: _pack(content[key], arrays) for key in content}}
    return value


def _unpack(body: Any, arrays: Arrays) -> Any:
    if isinstance(body, list):
        return [_unpack(item, arrays) for item in body]
    if not isinstance(body, dict):
        return body
    if "array" in body:
        return arrays[body["array"]]
    content = {key: _unpack(item, arrays) for key, item in body["fields"].items()}
    return _RECORDS[body["record"]](**content)
