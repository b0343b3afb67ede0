from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_pipeline.arrays import load_arrays, save_arrays
from wsi_pipeline.errors import OutputError

ARRAYS = hnp.arrays(
    st.sampled_from([np.dtype(name) for name in ("?", "i1", "u1", "i2", "i4", "u4", "i8", "f4", "f8", "U7")]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)


@given(st.dictionaries(st.sampled_from("abcd"), ARRAYS, min_size=1))
def test_arrays_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path_factory.mktemp("arrays") / "file.arrow"
    save_arrays(path, arrays)
    loaded = load_arrays(path)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array, strict=True)


def test_only_the_named_arrays_are_read(tmp_path: Path) -> None:
    save_arrays(tmp_path / "file.arrow", {"small": np.arange(3), "large": np.zeros((100, 100))})
    assert list(load_arrays(tmp_path / "file.arrow", ["small"])) == ["small"]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        save_arrays(tmp_path / "missing" / "file.arrow", {"a": np.arange(3)})
    assert not list(tmp_path.iterdir())


def test_threads_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "file.arrow"
    save_arrays(path, {str(number): np.arange(number) for number in range(20)})
    with ThreadPoolExecutor(8) as pool:
        for loaded in pool.map(load_arrays, [path] * 2000):
            assert len(loaded["19"]) == 19
