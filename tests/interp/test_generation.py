"""Replies: batches, edits and stopped runs change nothing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from families import FAMILIES, VOCAB, tiny

from interp import Checkpoint, InputError, load
from interp.capture.prompt_states import prompt_rows
from interp.data.padding import ends
from interp.data.rows import Row
from interp.errors import NumericalError
from interp.generation import next_logits, replies, token_log_probabilities
from interp.interventions.edits_by_site import add_vector
from interp.model.sites import Site
from interp.organisms import prompts


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load("organism:chat")


@pytest.fixture(scope="module")
def rows(checkpoint: Checkpoint) -> list[Row]:
    some = prompts("chat")
    return prompt_rows(checkpoint, [*some["harmful"][:6], *some["refused_harmless"][:6]])


def test_the_organism_answers_as_it_was_trained(checkpoint: Checkpoint, rows: list[Row]) -> None:
    some = prompts("chat")
    wanted = [p.answer for p in (*some["harmful"][:6], *some["refused_harmless"][:6])]
    said = replies(checkpoint, rows, max_new_tokens=16)
    assert [reply.text for reply in said] == wanted
    assert all(reply.ended for reply in said)


def test_replies_do_not_depend_on_the_batch(checkpoint: Checkpoint, rows: list[Row]) -> None:
    together = replies(checkpoint, rows, max_new_tokens=16)
    alone = [replies(checkpoint, [row], max_new_tokens=16)[0] for row in rows]
    assert together == alone


def test_a_budget_that_ends_too_soon_is_told(checkpoint: Checkpoint, rows: list[Row]) -> None:
    (reply,) = replies(checkpoint, rows[:1], max_new_tokens=2)
    assert not reply.ended and len(reply.ids) == 2


def test_an_edit_may_name_a_position_of_every_row(checkpoint: Checkpoint, rows: list[Row]) -> None:
    push = torch.randn(96, generator=torch.Generator().manual_seed(0)) * 3

    @contextmanager
    def edit(batch: Sequence[Row]) -> Iterator[None]:
        last = torch.tensor([[len(row) - 1] for row in batch])
        with add_vector(checkpoint, push, Site("resid_pre", 1), positions=last):
            yield

    together = replies(checkpoint, rows, max_new_tokens=8, edit=edit)
    alone = [replies(checkpoint, [row], max_new_tokens=8, edit=edit)[0] for row in rows]
    assert together == alone
    assert together != replies(checkpoint, rows, max_new_tokens=8)


def test_a_stopped_run_goes_on(
    checkpoint: Checkpoint, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 2:
            raise KeyboardInterrupt

    def run(progress: object) -> object:
        return replies(
            checkpoint,
            rows,
            max_new_tokens=16,
            batch_tokens=120,
            workdir=tmp_path,
            progress=progress,  # type: ignore[arg-type]
        )

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / sorted(p.name for p in tmp_path.iterdir())[0]).write_text("{")  # costs one batch
    assert run(None) == replies(checkpoint, rows, max_new_tokens=16)


def test_next_logits_are_those_of_each_row_alone(checkpoint: Checkpoint, rows: list[Row]) -> None:
    together = next_logits(checkpoint, rows)
    with torch.no_grad():
        alone = torch.stack([checkpoint.model(torch.tensor([r.ids])).logits[0, -1] for r in rows])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_what_does_not_fit_is_refused(checkpoint: Checkpoint, rows: list[Row]) -> None:
    with pytest.raises(InputError, match="do not fit organism:chat, which was built for 128"):
        replies(checkpoint, rows, max_new_tokens=128)
    with pytest.raises(InputError, match="at least one prompt"):
        replies(checkpoint, [], max_new_tokens=4)
    with pytest.raises(InputError, match="same index"):
        replies(checkpoint, [rows[0], rows[0]], max_new_tokens=4)


def test_ends_come_from_config_and_tokenizer(checkpoint: Checkpoint) -> None:
    assert checkpoint.tokenizer is not None
    assert ends(checkpoint) == [checkpoint.tokenizer.eos_token_id]


def test_log_probabilities_are_those_of_each_row_alone(
    checkpoint: Checkpoint, rows: list[Row]
) -> None:
    begins = [len(row) - 1 - i % 4 for i, row in enumerate(rows)]
    found = token_log_probabilities(checkpoint, rows, begins, batch_tokens=60)
    for row, begin, values in zip(rows, begins, found, strict=True):
        with torch.no_grad():
            logits = checkpoint.model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        wanted = [logits[i - 1, row.ids[i]].item() for i in range(begin, len(row))]
        assert values == pytest.approx(wanted, abs=1e-4)
    with pytest.raises(InputError, match="a token to predict"):
        token_log_probabilities(checkpoint, rows[:1], [len(rows[0])])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_tokens", [1, 8192], ids=["unpadded", "padded"])
def test_log_probabilities_equal_full_logits_on_every_family(
    family: str, batch_tokens: int
) -> None:
    checkpoint = load(tiny(family))
    generator = torch.Generator().manual_seed(3)
    rows = []
    for index, length in enumerate((9, 20, 11, 20)):
        ids = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        rows.append(Row(index, tuple(ids), "text", {"text": (0, length)}))
    begins = [1, 19, 6, 14]
    found = token_log_probabilities(checkpoint, rows, begins, batch_tokens=batch_tokens)
    for row, begin, values in zip(rows, begins, found, strict=True):
        with torch.no_grad():
            logits = checkpoint.model(torch.tensor([row.ids]), use_cache=False).logits[0]
        every = logits.double().log_softmax(-1)
        wanted = [every[i - 1, row.ids[i]].item() for i in range(begin, len(row))]
        assert values == pytest.approx(wanted, abs=1e-4)


def test_only_the_wanted_tokens_are_unembedded() -> None:
    checkpoint = load(tiny("llama"))
    seen: list[int] = []
    head = checkpoint.model.lm_head
    handle = head.register_forward_hook(lambda *call: seen.append(call[2].shape[1]))
    rows = [Row(i, tuple(range(3, 43)), "text", {"text": (0, 40)}) for i in range(2)]
    token_log_probabilities(checkpoint, rows, [38, 36])
    handle.remove()
    assert seen == [5]


def test_many_tokens_are_scored_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load(tiny("llama"))
    row = Row(0, tuple(3 + i % 90 for i in range(150)), "text", {"text": (0, 150)})
    (whole,) = token_log_probabilities(checkpoint, [row], [1])
    monkeypatch.setattr("interp.generation._CHUNK", 1000)
    (at_once,) = token_log_probabilities(checkpoint, [row], [1])
    assert len(whole) == 149 and (whole == at_once).all()


def test_logits_that_are_no_numbers_are_told() -> None:
    checkpoint = load(tiny("llama"))
    with torch.no_grad():
        checkpoint.final_norm.get_parameter("weight").fill_(float("nan"))
    row = Row(4, (5, 6, 7), "text", {"text": (0, 3)})
    with pytest.raises(NumericalError, match="behind prompt 4 are NaN"):
        token_log_probabilities(checkpoint, [row], [1])
