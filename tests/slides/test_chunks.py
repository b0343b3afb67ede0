"""Decoded chunks are kept up to a number of bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.slides.chunks import ChunkCache, new_owner, read_through


def chunk_of(value: int, nbytes: int = 100) -> np.ndarray:
    return np.full(nbytes, value % 256, np.uint8)


@given(keys=st.lists(st.integers(0, 30), max_size=60), capacity=st.integers(0, 900))
def test_never_more_than_capacity_and_always_the_right_chunk(keys: list[int], capacity: int) -> None:
    cache = ChunkCache(capacity)
    for key in keys:
        assert cache.get((0, key), lambda key=key: chunk_of(key))[0] == key
        assert cache.nbytes <= capacity


def test_least_recently_used_goes_first() -> None:
    cache, made = ChunkCache(300), []
    for key in (1, 2, 3, 1, 4, 1, 2):
        cache.get((0, key), lambda key=key: made.append(key) or chunk_of(key))
    assert made == [1, 2, 3, 4, 2]


def test_chunks_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        ChunkCache(1000).get((0, 1), lambda: chunk_of(1))[0] = 7


def test_forgetting_one_owner_keeps_the_others() -> None:
    cache, one, two = ChunkCache(1000), new_owner(), new_owner()
    for owner in (one, two):
        cache.get((owner, 0), lambda owner=owner: chunk_of(owner))
    cache.forget(one)
    assert cache.nbytes == 100
    assert cache.get((two, 0), lambda: chunk_of(99))[0] == two % 256


def test_threads_get_the_right_chunks_within_capacity() -> None:
    cache = ChunkCache(1000)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda n: cache.get((0, n % 23), lambda: chunk_of(n % 23))[0], range(2000)))
    assert got == [n % 23 for n in range(2000)]
    assert cache.nbytes <= 1000


@given(
    chunk_width=st.integers(1, 20),
    chunk_height=st.integers(1, 20),
    x=st.integers(0, 40),
    y=st.integers(0, 30),
    width=st.integers(1, 20),
    height=st.integers(1, 20),
)
def test_window_put_together_from_chunks_is_the_slice(
    chunk_width: int, chunk_height: int, x: int, y: int, width: int, height: int
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)

    def chunk(row: int, col: int) -> np.ndarray:
        top, left = row * chunk_height, col * chunk_width
        return image[top : top + chunk_height, left : left + chunk_width]

    got = read_through((chunk_width, chunk_height), (x, y, width, height), chunk)
    assert np.array_equal(got, image[y : y + height, x : x + width])
