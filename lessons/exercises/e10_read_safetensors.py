"""Lesson 10, exercise 1: a safetensors file, by its bytes."""

import json

import numpy as np
import safetensors.numpy

FORMATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64}


def read(raw: bytes) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file under their names; "__metadata__" is none of them.

    data_offsets count from the end of the header. Raises ValueError when a tensor's bytes are not all there, or not as many
    as its shape and format need.
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e10_read_safetensors.py

TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1, -2], dtype=np.int64),
    "half": np.array([[0.5]], dtype=np.float16),
    "empty": np.zeros((0, 4), dtype=np.float32),
}


def test_every_tensor_arrives():
    found = read(safetensors.numpy.save(TENSORS, metadata={"format": "pt"}))
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_where_a_tensor_lies_is_what_its_offsets_say_and_not_its_place_in_the_header():
    entries = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": offsets} for name, offsets in (("b", [8, 16]), ("a", [0, 8]))
    }
    header = json.dumps(entries).encode()
    found = read(len(header).to_bytes(8, "little") + header + np.arange(4, dtype=np.float32).tobytes())
    assert found["a"].tolist() == [0, 1] and found["b"].tolist() == [2, 3]


def test_a_damaged_file_is_refused():
    raw = safetensors.numpy.save(TENSORS)
    for damaged in (raw[:-1], raw.replace(b'"shape":[2,3]', b'"shape":[2,2]')):
        try:
            read(damaged)
        except ValueError:
            continue
        raise AssertionError("a damaged file was read")
