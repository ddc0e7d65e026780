"""Operators against their formulas, token by token."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.errors import InputError
from steering.runtime.operators import Operator, move, operate, prepared, require_operator

WIDTH = 5


def _given() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, WIDTH, generator=generator)
    v, c = torch.randn(2, WIDTH, generator=generator)
    return x, v, c, torch.tensor([0.5, -1.0, 2.0])


def _applied(operator: Operator, x: Tensor, v: Tensor, c: Tensor, s: Tensor, norm: bool) -> Tensor:
    reader = c if operator == "map" else None
    direction = prepared(operator, v)
    return operate(operator, x, direction, move(operator, direction, s), reader, norm)


@pytest.mark.parametrize("keep_norm", [False, True])
@pytest.mark.parametrize("operator", ["add", "relative", "map"])
def test_additions(operator: Operator, keep_norm: bool) -> None:
    x, v, c, s = _given()
    found = _applied(operator, x, v, c, s, keep_norm)
    for row in range(3):
        for token in range(4):
            h = x[row, token]
            size = {"add": 1.0, "relative": float(h.norm() / v.norm()), "map": float(c @ h)}
            expected = h + s[row] * size[operator] * v
            if keep_norm:
                expected = expected * h.norm() / expected.norm()
            assert torch.allclose(found[row, token], expected, atol=1e-5)


def test_rotation_turns_by_an_angle_and_keeps_the_norm() -> None:
    x, v, c, _ = _given()
    s = torch.tensor([0.3, -0.4, 0.0])
    found = _applied("rotate", x, v, c, s, False)
    assert torch.allclose(found.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert torch.allclose(found[2], x[2], atol=1e-6)

    def angle(one: Tensor, other: Tensor) -> Tensor:
        return torch.acos(torch.cosine_similarity(one, other, dim=-1).clamp(-1, 1))

    assert torch.allclose(angle(found[:2], x[:2]), s[:2, None].abs().expand(2, 4), atol=1e-3)
    before, after = angle(x, v.expand_as(x)), angle(found, v.expand_as(x))
    assert torch.allclose(after[0], before[0] - 0.3, atol=1e-3)
    assert torch.allclose(after[1], before[1] + 0.4, atol=1e-3)
    # Within the plane of x and v: nothing of the result is outside of it.
    basis = torch.linalg.qr(torch.stack([x[0, 0], v], 1))[0]
    outside = found[0, 0] - basis @ (basis.T @ found[0, 0])
    assert outside.norm() < 1e-5


def test_rotation_never_turns_past_the_direction() -> None:
    x, v, c, _ = _given()
    found = _applied("rotate", x, v, c, torch.full((3,), 4.0), False)
    expected = x.norm(dim=-1, keepdim=True) * v / v.norm()
    assert torch.allclose(found, expected, atol=1e-4)
    along = (2 * v).expand(1, 1, WIDTH)
    same = _applied("rotate", along, v, c, torch.tensor([math.pi]), False)
    assert torch.allclose(same, along, atol=1e-3)


@pytest.mark.parametrize("operator", ["add", "relative", "rotate", "map"])
def test_half_precision_is_computed_in_float32(operator: Operator) -> None:
    x, v, c, s = _given()
    half = x.to(torch.bfloat16)
    found = _applied(operator, half, v, c, s, False)
    assert found.dtype == torch.bfloat16
    expected = _applied(operator, half.float(), v, c, s, False)
    assert torch.equal(found, expected.to(torch.bfloat16))


def test_an_unknown_operator_is_named() -> None:
    assert require_operator("add") == "add"
    with pytest.raises(InputError, match="no operator 'shove'"):
        require_operator("shove")


def test_an_unknown_operator_is_no_addition(as_users_call: None) -> None:
    x, v, _, s = _given()
    wrong: Any = "subtract"
    for call in (
        lambda: prepared(wrong, v),
        lambda: move(wrong, v, s),
        lambda: operate(wrong, x, v, v),
    ):
        with pytest.raises(AssertionError, match="subtract"):
            call()
