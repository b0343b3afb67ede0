"""Points at which losses are computed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.training.point_sampling import PointSampling, read_at, sample_points, uncertain_points


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramp(height: int, width: int) -> torch.Tensor:
    """(1, 1, height, width): 3x + 5y at cell centres, x and y in [0, 1]."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return (3 * x + 5 * y)[None, None]


def test_published_numbers():
    sampling = PointSampling()
    assert (sampling.count, sampling.candidates, sampling.uncertain, sampling.uniform) == (12544, 37632, 9408, 3136)


@given(st.integers(1, 40), st.floats(1, 4), st.floats(0, 1), st.integers(0, 99))
def test_as_many_points_as_asked_for_all_within_the_map(count, oversampling, importance, seed):
    logits = torch.randn(2, 3, 8, 12, generator=seeded(seed))
    points = sample_points(logits, PointSampling(count, oversampling, importance), seeded(seed))
    assert points.shape == (2, 3, count, 2)
    assert ((points >= 0) & (points <= 1)).all()


def test_kept_candidates_are_the_most_uncertain_ones():
    logits = torch.randn(2, 2, 16, 16, generator=seeded())
    candidates = torch.rand(2, 2, 90, 2, generator=seeded(1))
    kept = read_at(logits, uncertain_points(logits, candidates, 30)).abs()
    every = read_at(logits, candidates).abs()
    assert torch.equal(kept, every.sort(dim=-1).values[..., :30])


def test_uncertain_points_gather_along_the_contour():
    x = torch.linspace(-1, 1, 64).expand(64, 64)
    logits = (20 * x)[None, None]
    points = sample_points(logits, PointSampling(400, 3.0, 0.75), seeded())
    near = (points[..., 0] - 0.5).abs() < 0.15
    assert near[..., :300].float().mean() > 0.9
    assert near[..., 300:].float().mean() < 0.5


def test_choice_of_points_has_no_gradient():
    logits = torch.randn(1, 1, 8, 8, requires_grad=True)
    assert not sample_points(logits, PointSampling(10), seeded()).requires_grad


def test_same_seed_same_points():
    logits = torch.randn(1, 2, 8, 8, generator=seeded())
    first, again, other = (sample_points(logits, PointSampling(50), seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 99))
def test_a_linear_map_is_read_exactly_whatever_its_size(height, width, seed):
    margin = torch.tensor([0.5 / width, 0.5 / height])
    points = margin + (1 - 2 * margin) * torch.rand(1, 1, 30, 2, generator=seeded(seed))
    expected = 3 * points[..., 0] + 5 * points[..., 1]
    torch.testing.assert_close(read_at(ramp(height, width), points), expected, rtol=1e-4, atol=1e-4)


def test_every_mask_is_read_at_its_own_points():
    maps = torch.arange(6.0).view(2, 3, 1, 1).expand(2, 3, 4, 4)
    points = torch.full((2, 3, 5, 2), 0.5)
    assert torch.equal(read_at(maps, points), maps[..., 0, :1].expand(2, 3, 5))


def test_values_fade_towards_the_edge_of_the_map():
    edge = read_at(torch.ones(1, 1, 4, 4), torch.tensor([[[[0.0, 0.5]]]]))
    assert edge.item() == pytest.approx(0.5)
