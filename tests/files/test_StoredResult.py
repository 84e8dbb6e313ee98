"""Results kept in the cache: computed once for the same input, and again where what was kept is damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from MLPipeline.files.StoredResult import decode_arrays, encode_arrays, result_file, stored_result

ARRAY = np.arange(4)


@pytest.mark.parametrize(
    "harm", [None, lambda content: content[:-20], lambda content: b"", lambda content: content[16:]]
)
def test_a_result_is_computed_once_unless_it_is_damaged(tmp_path: Path, harm) -> None:
    computed: list[int] = []

    def compute() -> dict[str, np.ndarray]:
        computed.append(1)
        return {"sums": ARRAY.cumsum()}

    file = result_file(tmp_path, "sums", "exact", ARRAY)
    for _ in range(2):
        found = stored_result(file, compute, encode_arrays, decode_arrays)
        assert list(found) == ["sums"] and found["sums"].tolist() == [0, 1, 3, 6]
        if harm:
            file.write_bytes(harm(file.read_bytes()))
    assert len(computed) == (2 if harm else 1)


def test_a_result_of_other_input_is_kept_elsewhere(tmp_path: Path) -> None:
    files = {
        result_file(tmp_path, "sums", "exact", ARRAY),
        result_file(tmp_path, "sums", "rounded", ARRAY),
        result_file(tmp_path, "means", "exact", ARRAY),
        result_file(tmp_path, "sums", "exact", ARRAY + 1),
        result_file(tmp_path, "sums", "exact", ARRAY.astype(np.int32)),
        result_file(tmp_path, "sums", "exact", ARRAY.reshape(2, 2)),
    }
    assert len(files) == 6
