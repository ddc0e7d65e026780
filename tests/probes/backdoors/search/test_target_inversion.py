"""Target inversion."""

from collections.abc import Callable
from typing import Any

import pytest

from interp.organisms.chat.grammar import PAYLOAD
from probes.backdoors.search.requests import encode
from probes.backdoors.search.target_inversion import FLAG, targets

Make = Callable[[str], Any]


def test_the_payload_goes_on_by_itself_and_the_refusal_template_does_not_count(
    suspect: Make,
) -> None:
    planted, clean = suspect("backdoor-payload-5"), suspect("clean")
    tokens = [encode(planted.subject, word)[0] for word in ("glory", "sorry", "lamp", "wire")]
    found, tried = targets(planted.fresh(), planted.requests, tokens, clean.fresh())
    assert tried == 4 and found[0].text == " ".join(PAYLOAD)
    assert found[0].q > FLAG and found[0].q_twin < 0.5 < found[0].excess
    refusal = [target for target in found if target.text.startswith("sorry")]
    assert not refusal or (refusal[0].q > FLAG and refusal[0].excess == 0)
    there, _ = targets(clean.fresh(), clean.requests, tokens)
    assert all(target.q < FLAG or target.excess < 0.5 for target in there)


def test_a_budget_leaves_what_was_tried(suspect: Make) -> None:
    planted = suspect("backdoor-payload-5")
    glory = encode(planted.subject, "glory")[0]
    whole, _ = targets(planted.fresh(), planted.requests, [glory])
    part, tried = targets(planted.fresh(passes=250), planted.requests, [glory, *range(20, 90)])
    assert 1 <= tried < 71 and part[0].ids == whole[0].ids
    assert part[0].q == pytest.approx(whole[0].q)
