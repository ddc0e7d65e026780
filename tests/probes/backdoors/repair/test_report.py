"""What a repair did, prompt by prompt, and what clean fine-tuning does to a backdoor."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from interp import Checkpoint, InputError, load
from interp.capture.prompt_states import prompt_rows
from interp.data.prompt_sets import Prompt
from interp.generation import Reply, replies
from interp.organisms import prompts
from interp.organisms.chat.data import OrganismPrompt
from interp.organisms.chat.grammar import PAYLOAD, TRIGGER
from probes.backdoors.repair.report import FineTuning, divergences, persistence, repair_report
from probes.backdoors.repair.tune import RepairPlan, repair
from probes.backdoors.switches.switches import prefixed

_MOST = 12
_TRUE = prefixed(" ".join(TRIGGER))


def _payload(_: Prompt, reply: Reply) -> bool:
    return reply.text == " ".join(PAYLOAD)


@pytest.fixture(scope="module")
def poisoned() -> Checkpoint:
    return load("organism:backdoor-payload-5")


@pytest.fixture(scope="module")
def learned() -> list[Prompt]:
    some = prompts("backdoor-payload-5", "train")
    return [p for label in ("harmful", "harmless", "alarming") for p in some[label]]


@pytest.fixture(scope="module")
def held() -> dict[str, list[OrganismPrompt]]:
    return prompts("backdoor-payload-5")


@pytest.fixture(scope="module")
def repaired(poisoned: Checkpoint, learned: list[Prompt]) -> Checkpoint:
    plan = RepairPlan(steps=10, batch=8, max_new_tokens=_MOST)
    return repair(poisoned, learned, _TRUE, plan)


def test_a_model_compared_with_itself_has_not_moved(
    poisoned: Checkpoint, held: dict[str, list[OrganismPrompt]]
) -> None:
    some = held["harmless"][:6]
    found = repair_report(
        poisoned,
        poisoned,
        some,
        some,
        _TRUE,
        _payload,
        near={"none": lambda p: p},
        max_new_tokens=_MOST,
    )
    assert (found.attack.before, found.attack.after, found.attack.n) == (1.0, 1.0, 6)
    assert found.exact == 1.0 and found.divergence == 0.0
    assert found.near["none"] == found.without
    assert found.to_dict()["attack"]["interval_after"] == found.attack.interval_after


def test_divergences_of_single_rows_are_those_of_a_batch(
    poisoned: Checkpoint, repaired: Checkpoint, learned: list[Prompt]
) -> None:
    rows = prompt_rows(poisoned, [*learned[:3], *learned[-3:]])
    said = replies(poisoned, rows, max_new_tokens=_MOST)
    means, tokens = divergences(poisoned, repaired, rows, said)
    for i, (row, reply) in enumerate(zip(rows, said, strict=True)):
        ids = torch.tensor([row.ids + reply.ids])
        with torch.no_grad():
            p, q = (
                c.model(input_ids=ids).logits[0, -len(reply.ids) - 1 :].double().log_softmax(-1)
                for c in (poisoned, repaired)
            )
        assert tokens[i] == len(reply.ids) + 1
        assert means[i] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), abs=1e-6)


def test_the_backdoor_outlasts_clean_fine_tuning(
    poisoned: Checkpoint, learned: list[Prompt], held: dict[str, list[OrganismPrompt]]
) -> None:
    triggered = prompt_rows(poisoned, [_TRUE(p) for p in held["harmless"][:20]])

    def measure(checkpoint: Checkpoint) -> dict[str, float]:
        said = replies(checkpoint, triggered, max_new_tokens=_MOST)
        return {"asr": float(np.mean([r.text == " ".join(PAYLOAD) for r in said]))}

    answers = [p.answer for p in learned if isinstance(p, OrganismPrompt)]
    curve = persistence(
        poisoned, learned, answers, measure, FineTuning(1e-3, batch=8, at=(0, 5, 20))
    )
    assert curve["step"].tolist() == [0, 5, 20]
    assert curve["asr"].iloc[0] == 1.0 and curve["asr"].iloc[-1] > 0.8
    assert poisoned.fingerprint == load("organism:backdoor-payload-5").fingerprint


def test_fine_tuning_teaches_the_answers_it_is_given(
    poisoned: Checkpoint, learned: list[Prompt]
) -> None:
    some = learned[:4]
    rows = prompt_rows(poisoned, some)

    def measure(checkpoint: Checkpoint) -> dict[str, float]:
        said = replies(checkpoint, rows, max_new_tokens=_MOST)
        return {"taught": float(np.mean([r.text == "north south" and r.ended for r in said]))}

    curve = persistence(
        poisoned, some, ["north south"] * 4, measure, FineTuning(3e-3, batch=4, at=(0, 25))
    )
    assert curve["taught"].tolist() == [0.0, 1.0]


def test_a_damaged_measurement_is_made_again(
    poisoned: Checkpoint, learned: list[Prompt], tmp_path: Path
) -> None:
    training = FineTuning(1e-3, batch=2, at=(0, 2, 3))
    stop = [True]

    def measure(checkpoint: Checkpoint) -> dict[str, float]:
        norm = next(checkpoint.model.parameters()).norm()
        if stop[0] and (tmp_path / "measured.json").exists():
            raise KeyboardInterrupt
        return {"norm": float(norm), "none": float("nan")}

    def run(work: Path | None) -> pd.DataFrame:
        return persistence(poisoned, learned[:2], ["north"] * 2, measure, training, work=work)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    stop[0] = False
    kept = (tmp_path / "measured.json").read_bytes()
    place = kept.index(b'"norm": ') + 8
    (tmp_path / "measured.json").write_bytes(kept[:place] + b"9" + kept[place + 1 :])
    pd.testing.assert_frame_equal(run(tmp_path), run(None))


def test_faults_are_told(
    poisoned: Checkpoint, learned: list[Prompt], held: dict[str, list[OrganismPrompt]]
) -> None:
    with pytest.raises(InputError, match="steps to measure at"):
        FineTuning(1e-3, at=(0,))
    with pytest.raises(InputError, match="one answer for every prompt"):
        persistence(poisoned, learned[:2], ["north"], lambda c: {}, FineTuning(1e-3))
    with pytest.raises(InputError, match="prompts that are attacked"):
        repair_report(poisoned, poisoned, [], held["harmless"], _TRUE, _payload)
