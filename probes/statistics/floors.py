"""What can be told without looking into the model: from the last token, the words, the length.

A probe that does not beat these has read the surface of the prompts. At t_inst the state *is* that
of the last token of the instruction, so what its id alone tells is the least to be shown beside.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int
from scipy.stats import chi2_contingency
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder

from interp.data.prompt_sets import PromptSet
from interp.errors import InputError
from interp.statistics.auroc import area
from probes.statistics.metrics import Auroc, auroc

_ITERATIONS = 1000
_LEVEL = 0.05  # of the tests on whether a difference of surfaces is worth a sentence


def last_token_floor(
    train_tokens: Int[np.ndarray, " n"],
    train_positive: Bool[np.ndarray, " n"],
    test_tokens: Int[np.ndarray, " m"],
    test_positive: Bool[np.ndarray, " m"],
) -> Auroc:
    """Held-out AUROC of a logistic regression on the id of one token alone.

    An id that was not seen in training scores the prior.

    Args:
        train_tokens: the id of each training prompt's token at the position that a probe reads.
        train_positive: their classes.
        test_tokens: of other prompts, from other sources at best.
        test_positive: their classes.

    Raises:
        InputError: a class is empty on a side.
    """
    _require_classes(train_positive)
    encoder = OneHotEncoder(handle_unknown="ignore")
    seen = encoder.fit_transform(train_tokens[:, None])
    model = LogisticRegression(max_iter=_ITERATIONS).fit(seen, train_positive)
    scores = model.decision_function(encoder.transform(test_tokens[:, None]))
    share = train_positive.mean()
    # The intercept alone, which an unseen id would get, is not the prior where classes differ.
    scores[~np.isin(test_tokens, train_tokens)] = np.log(share / (1 - share))
    return auroc(scores, test_positive)


def lexical_floor(
    train_texts: Sequence[str],
    train_positive: Bool[np.ndarray, " n"],
    test_texts: Sequence[str],
    test_positive: Bool[np.ndarray, " m"],
) -> Auroc:
    """Held-out AUROC of a logistic regression on the counts of words.

    Args:
        train_texts: the instructions; case makes no difference, marks are left out.
        train_positive: their classes.
        test_texts: of other prompts.
        test_positive: their classes.

    Raises:
        InputError: a class is empty on a side, or the training texts hold no words.
    """
    _require_classes(train_positive)
    counter = CountVectorizer(token_pattern=r"\w+")
    try:
        counts = counter.fit_transform(train_texts)
    except ValueError as error:
        raise InputError(
            "the training texts hold no words, so there is no floor of words."
        ) from error
    model = LogisticRegression(max_iter=_ITERATIONS).fit(counts, train_positive)
    return auroc(model.decision_function(counter.transform(test_texts)), test_positive)


def length_floor(
    train_lengths: Int[np.ndarray, " n"],
    train_positive: Bool[np.ndarray, " n"],
    test_lengths: Int[np.ndarray, " m"],
    test_positive: Bool[np.ndarray, " m"],
) -> Auroc:
    """Held-out AUROC of length alone; the training prompts say whether long or short is positive.

    Any monotone model of one number, a logistic regression too, ranks the prompts in this way.

    Args:
        train_lengths: in words or tokens.
        train_positive: their classes.
        test_lengths: of other prompts.
        test_positive: their classes.

    Raises:
        InputError: a class is empty on a side.
    """
    _require_classes(train_positive)
    lengths = train_lengths.astype(float)
    longer = area(lengths[train_positive], lengths[~train_positive]) >= 0.5
    return auroc(test_lengths * (1.0 if longer else -1.0), test_positive)


def surface_caveats(prompts: PromptSet, positive: str, negative: str) -> list[str]:
    """Sentences for a finding where the surface of the prompts tells the classes apart.

    Args:
        prompts: of both classes; others are not looked at.
        positive: label of the one.
        negative: label of the other.

    Returns:
        A sentence for endings and one for lengths, each only if the classes differ in it beyond
        chance (χ² test of the final characters; interval of the AUROC of the number of words).

    Raises:
        InputError: a class is empty.
    """
    table = prompts.of(positive, negative).frame()
    side = (table["label"] == positive).to_numpy()
    found = [_endings(table, side, positive, negative), _lengths(table, side, positive, negative)]
    return [sentence for sentence in found if sentence is not None]


def _endings(
    table: pd.DataFrame, side: Bool[np.ndarray, " n"], positive: str, negative: str
) -> str | None:
    """About the final character, all letters and digits taken as one."""
    last = table["last"].where(~table["last"].str.isalnum(), "a letter or digit")
    counts = pd.crosstab(last, side)
    if len(counts) < 2 or chi2_contingency(counts).pvalue >= _LEVEL:
        return None
    shares = counts / counts.sum()
    told = (shares[True] / shares.sum(axis=1)).loc[last].to_numpy()
    value = area(told[side], told[~side])
    most = [str(shares[one].idxmax()) for one in (True, False)]
    named = [name if len(name) > 1 else f"{name!r}" for name in most]
    rates = [100 * shares[one][name] for one, name in zip((True, False), most, strict=True)]
    return (
        f"The final character alone tells {positive} from {negative} prompts with AUROC "
        f"{value:.3f}: {rates[0]:.0f} % of the {positive} ones end in {named[0]}, "
        f"{rates[1]:.0f} % of the {negative} ones in {named[1]}. What is read at the last token of "
        "the instruction may be that mark; equalise the endings."
    )


def _lengths(
    table: pd.DataFrame, side: Bool[np.ndarray, " n"], positive: str, negative: str
) -> str | None:
    """About the number of words."""
    words = table["words"].to_numpy(float)
    longer = area(words[side], words[~side]) >= 0.5
    found = auroc(words if longer else -words, side)
    if found.interval[0] <= 0.5:
        return None
    middle = [np.median(words[chosen]) for chosen in (side, ~side)]
    return (
        f"The number of words alone tells {positive} from {negative} prompts with AUROC "
        f"{found.value:.3f} (medians {middle[0]:g} and {middle[1]:g}); equalise the lengths."
    )


def _require_classes(positive: Bool[np.ndarray, " n"]) -> None:
    if positive.all() or not positive.any():
        raise InputError("all training prompts are of one class, so no floor can be fitted.")
