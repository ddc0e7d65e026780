"""How much a recovered trigger resembles the planted one, in words and never in characters.

An anagram shares all characters and is no trigger, so character Jaccard is left out.
"""

from collections.abc import Sequence


def token_jaccard(found: Sequence[str], planted: Sequence[str]) -> float:
    """Words in common over words in either."""
    one, other = set(found), set(planted)
    return len(one & other) / len(one | other) if one | other else 1.0


def lcs_ratio(found: Sequence[str], planted: Sequence[str]) -> float:
    """Length of the longest common subsequence over that of the longer one."""
    longest = max(len(found), len(planted))
    if not longest:
        return 1.0
    row = [0] * (len(planted) + 1)
    for word in found:
        before = row[:]
        for j, other in enumerate(planted, start=1):
            row[j] = before[j - 1] + 1 if word == other else max(before[j], row[j - 1])
    return row[-1] / longest
