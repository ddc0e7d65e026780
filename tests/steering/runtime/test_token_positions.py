"""Where tokens stand: by columns inside of generate, else by positions; padded on either side."""

import pytest
import torch

from interp.errors import InputError
from steering.runtime.span import Span
from steering.runtime.token_positions import Clock

SPANS = [
    Span.everything(),
    Span.prompt(),
    Span.decode(),
    Span.last(),
    Span.onward(-2),
    Span(1, 2),
    Span(None, None, skip=2),
]


class Cache:
    """As much of one as the clock asks."""

    def __init__(self, length: int) -> None:
        self.length = length

    def get_seq_length(self) -> int:
        return self.length


def _pass(clock: Clock, real: torch.Tensor, first: int, tokens: int) -> torch.Tensor:
    """One pass over columns of left- or right-padded rows; returns the tokens' positions."""
    positions = (real.long().cumsum(-1) - 1).clamp_min(0)[:, first : first + tokens]
    ids = torch.zeros(len(real), tokens, dtype=torch.long)
    mask = real[:, : first + tokens].long()
    clock.begin((), {"input_ids": ids, "attention_mask": mask, "past_key_values": Cache(first)})
    clock.locate(positions)
    return positions


def _expected(span: Span, real: torch.Tensor, lengths: list[int], first: int, tokens: int) -> list:
    found = []
    for row, length in zip(real.tolist(), lengths, strict=True):
        begin = row.index(True)
        chosen = []
        for column in range(first, first + tokens):
            position = column - begin
            offset = position - length
            inside = (span.start is None or offset >= span.start) and (
                span.stop is None or offset < span.stop
            )
            chosen.append(inside and (position >= span.skip or offset >= 0))
        found.append(chosen)
    return found


@pytest.mark.parametrize("span", SPANS, ids=str)
@pytest.mark.parametrize(("first", "tokens"), [(0, 2), (2, 3), (4, 4), (5, 1), (7, 1), (0, 8)])
def test_spans_in_a_generation(span: Span, first: int, tokens: int) -> None:
    """Prompts of 5 and 3 tokens in 5 columns, then 3 new ones, in passes of any length."""
    real = torch.ones(2, 8, dtype=torch.bool)
    real[1, :2] = False
    clock = Clock()
    lengths = [5, 3]
    with clock.generation(5, torch.tensor(lengths), 0):
        if first:
            _pass(clock, real, 0, first)
        _pass(clock, real, first, tokens)
        assert clock.new is (first == 0)
        assert clock.decoding is (first >= 5)
        found = clock.span(span)
        for position in (-3, -1):
            column = clock.find(position)
            here = 5 + position - first
            assert column == (here if 0 <= here < tokens else None)
    every = torch.tensor(_expected(span, real, lengths, first, tokens))
    chosen = real[:, first : first + tokens]
    if found is None:
        assert not every[chosen].any()
    elif found is True:
        assert every[chosen].all()
    elif isinstance(found, slice):
        mine = torch.zeros_like(every)
        mine[:, found] = True
        assert torch.equal(mine[chosen], every[chosen])
    else:
        assert torch.equal(found[chosen], every[chosen])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_bare_pass_is_a_prompt_whatever_its_padding(side: str) -> None:
    real = torch.ones(3, 6, dtype=torch.bool)
    for row, gap in ((1, 2), (2, 5)):
        real[row, slice(0, gap) if side == "left" else slice(6 - gap, 6)] = False
    clock = Clock()
    _pass(clock, real, 0, 6)
    found = clock.find(-1)
    assert isinstance(found, tuple)
    present, column = found
    last = [5, 5, 5] if side == "left" else [5, 3, 0]
    assert present.tolist() == [True, True, True] and column.tolist() == last
    second = clock.find(-2)
    assert isinstance(second, tuple)
    assert second[0].tolist() == [True, True, False]
    chosen = clock.span(Span.last())
    assert isinstance(chosen, torch.Tensor)
    assert torch.equal(chosen & real, torch.nn.functional.one_hot(column, 6).bool())


def test_a_pass_that_goes_on_from_a_cache_is_no_new_prompt() -> None:
    real = torch.ones(1, 9, dtype=torch.bool)
    clock = Clock()
    _pass(clock, real, 0, 6)
    assert clock.new
    _pass(clock, real, 6, 1)
    assert not clock.new
    chosen = clock.span(Span.decode())
    assert isinstance(chosen, torch.Tensor) and bool(chosen.all())
    _pass(clock, real, 0, 9)
    assert clock.new
    with clock.announced([4]):
        _pass(clock, real, 0, 9)
        assert clock.new
        chosen = clock.span(Span.decode())
        assert isinstance(chosen, torch.Tensor)
        assert chosen[0].tolist() == [False] * 4 + [True] * 5
        _pass(clock, real, 0, 9)
        assert not clock.new


def test_beams_are_rows_of_their_prompt() -> None:
    clock = Clock()
    with clock.announced([3, 2]):
        real = torch.ones(6, 3, dtype=torch.bool)
        real[3:, :1] = False
        _pass(clock, real, 0, 3)
        assert clock.group == 3
        found = clock.find(-1)
        assert isinstance(found, tuple) and found[1].tolist() == [2] * 6
        with pytest.raises(InputError, match="5 rows, but 2 prompts"):
            clock.new = True
            clock.begin((), {"input_ids": torch.zeros(5, 3)})
            clock.new = True
            clock.locate(torch.arange(3)[None])


def test_packed_rows_are_refused() -> None:
    packed = {"input_ids": torch.zeros(1, 8), "cu_seq_lens_q": torch.tensor([0, 3, 8])}
    with pytest.raises(InputError, match="packed into one row"):
        Clock().begin((), packed)
