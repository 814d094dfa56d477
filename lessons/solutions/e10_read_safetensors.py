"""Solution of lesson 10, exercise 1."""

import json
import math

import numpy as np

FORMATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64}


def read(raw: bytes) -> dict[str, np.ndarray]:
    start = 8 + int.from_bytes(raw[:8], "little")
    tensors = {}
    for name, entry in json.loads(raw[8:start]).items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        piece, dtype = raw[start + first : start + last], np.dtype(FORMATS[entry["dtype"]])
        if len(piece) != math.prod(entry["shape"]) * dtype.itemsize:
            raise ValueError(f"{name}: {len(piece)} bytes for the shape {entry['shape']}")
        tensors[name] = np.frombuffer(piece, dtype).reshape(entry["shape"])
    return tensors
