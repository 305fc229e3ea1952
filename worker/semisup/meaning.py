"""Whether two open answers say the same: the cosine of their embeddings, behind rules for what a cosine cannot see.

A sentence embedding puts "12 May" beside "13 May" (0.87 with all-MiniLM-L6-v2) and "turn left" beside "turn right" (0.93).
A false agreement is trained on, a missed one costs a call of the resolver: in doubt the rules keep two answers apart.
The words are English; other languages are left to digits and the cosine alone.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Embed = Callable[[Sequence[str]], NDArray[np.float32]]  # n texts -> (n, d), rows of unit length

TOKEN = re.compile(r"(?:(?<![\w.,)])[-−])?\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’]t\b)?")
THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
DECIMAL = re.compile(r"(-?)0*(\d+)(?:\.(\d*?)0*)?")
NEGATIONS = frozenset(
    word
    for words in (
        "no not never none nothing nobody nowhere neither nor cannot without hardly scarcely",
        "false untrue incorrect wrong unable impossible",
        "dont doesnt didnt isnt arent wasnt werent hasnt havent hadnt cant couldnt wont wouldnt shouldnt mustnt",
    )
    for word in words.split()
)
NEGATING = ("un", "in", "im", "il", "ir", "dis", "non")
NEGATABLE = 4  # letters at least: "into" does not negate "to"
# "one" is left out (a pronoun more often than a number), "may" from the months for the same reason.
NUMBER_WORDS: Mapping[str, str] = {
    word: number
    for number, words in {
        "0": "zero", "0.5": "half", "1": "first once", "2": "two second twice", "3": "three third", "4": "four fourth",
        "5": "five fifth", "6": "six sixth", "7": "seven seventh", "8": "eight eighth", "9": "nine ninth", "10": "ten tenth",
        "11": "eleven eleventh", "12": "twelve twelfth dozen", "13": "thirteen", "14": "fourteen", "15": "fifteen",
        "16": "sixteen", "17": "seventeen", "18": "eighteen", "19": "nineteen", "20": "twenty", "30": "thirty", "40": "forty",
        "50": "fifty", "60": "sixty", "70": "seventy", "80": "eighty", "90": "ninety", "100": "hundred", "1000": "thousand",
        "1000000": "million", "1000000000": "billion",
    }.items()
    for word in words.split()
}  # fmt: skip
CONTRASTS = tuple(
    frozenset(words.split())
    for words in (
        "january february march april june july august september october november december",
        "monday tuesday wednesday thursday friday saturday sunday",
        "north south east west northern southern eastern western",
        "left right",
        "before after",
        "more less fewer",
        "most least",
        "above below",
        "up down",
        "all some",
        "always sometimes",
        "he she",
    )
)
ARTICLES = frozenset(("a", "an", "the"))
ENDINGS = ("s", "es", "d", "ed", "ing", "ly")


@dataclass(frozen=True, slots=True)
class Meaning:
    """Embedded answers: text -> its row, (d,) float32 of unit length."""

    rows: Mapping[str, NDArray[np.float32]]

    def similarity(self, left: str, right: str) -> float:
        """The cosine to six decimals: 1 for equal texts, -inf for two that the rules keep apart.

        Raises KeyError for a text that was in no group of `read_meaning`.
        """
        if left == right:
            return 1.0
        if not may_agree(left, right):
            return -math.inf
        return round(float(self.rows[left] @ self.rows[right]), 6)


def read_meaning(embed: Embed, groups: Iterable[Sequence[str | None]]) -> Meaning:
    """Embed in one call every text that has to be compared: those of groups with at least two distinct ones."""
    texts: dict[str, None] = {}
    for group in groups:
        distinct = dict.fromkeys(text for text in group if text is not None)
        texts |= distinct if len(distinct) > 1 else {}
    return Meaning(dict(zip(texts, embed(list(texts)), strict=True)) if texts else {})


def cluster(texts: Sequence[str], meaning: Meaning, least: float) -> list[list[int]]:
    """Average-linkage agglomeration: indices of texts whose clusters' mean similarity is at least `least`.

    Each text counts as often as it occurs. Of equal pairs of clusters the first to appear is merged, and clusters come in
    order of first appearance. Two texts that the rules keep apart are never in one cluster.
    """
    counts = Counter(texts)  # in order of first appearance
    clusters = [[text] for text in counts]

    def linkage(a: list[str], b: list[str]) -> float:
        pairs = [(counts[x] * counts[y], meaning.similarity(x, y)) for x in a for y in b]
        return round(sum(n * s for n, s in pairs) / sum(n for n, _ in pairs), 6)

    while len(clusters) > 1:
        pairs = [(linkage(clusters[i], clusters[j]), i, j) for i in range(len(clusters)) for j in range(i + 1, len(clusters))]
        similarity, i, j = max(pairs, key=lambda pair: pair[0])  # max takes the first of equals
        if similarity < least:
            break
        clusters[i] = clusters[i] + clusters.pop(j)
    return sorted([i for i, text in enumerate(texts) if text in members] for members in clusters)


def may_agree(left: str, right: str) -> bool:
    """False where two texts cannot be taken to mean the same, however near their embeddings are:

    their numbers differ, in value or in order (digits, number words, ordinals); exactly one of them carries a negation;
    one says a word that the other negates by a prefix (blocked, unblocked); they name different members of a closed class
    (CONTRASTS); or word for word they differ in one word alone (the door is open, closed) or by two words that change places
    (the buyer pays the seller), which is how a contrast looks, while a paraphrase differs in more.
    """
    a, b = _traits(left), _traits(right)
    if a.numbers != b.numbers or a.negated != b.negated:
        return False
    mine, yours = set(a.words) - set(b.words), set(b.words) - set(a.words)
    if _prefixed(mine, yours) or _prefixed(yours, mine) or _contrasting(a.words, b.words):
        return False
    named = [(contrast.intersection(a.words), contrast.intersection(b.words)) for contrast in CONTRASTS]
    return not any(one and other and one != other for one, other in named)


def _prefixed(words: set[str], others: set[str]) -> bool:
    return any(prefix + word in others for word in words if len(word) >= NEGATABLE for prefix in NEGATING)


def _contrasting(left: Sequence[str], right: Sequence[str]) -> bool:
    """Whether word sequences of one length differ in one place by another word, or in two by an exchange."""
    replaced = _differences(*([word for word in words if word not in ARTICLES] for words in (left, right)))
    if len(replaced) == 1:
        short, long = sorted(replaced[0], key=len)
        return not (long.startswith(short) and long.removeprefix(short) in ENDINGS)
    moved = _differences(left, right)  # with articles, so that "Paris is the capital" and "the capital is Paris" may agree
    return len(moved) == 2 and moved[0] == moved[1][::-1]


def _differences(left: Sequence[str], right: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of words at the places where sequences of one length differ; nothing for other lengths."""
    return [(a, b) for a, b in zip(left, right, strict=True) if a != b] if len(left) == len(right) else []


@dataclass(frozen=True, slots=True)
class _Traits:
    numbers: tuple[str, ...]
    negated: bool
    words: tuple[str, ...]  # in order, without what is in `numbers`


@lru_cache(maxsize=4096)
def _traits(text: str) -> _Traits:
    tokens = TOKEN.findall(unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("−", "-"))
    numbers = tuple(_plain(t) if t[-1].isdigit() else NUMBER_WORDS[t] for t in tokens if t[-1].isdigit() or t in NUMBER_WORDS)
    words = tuple(t for t in tokens if not t[-1].isdigit() and t not in NUMBER_WORDS)
    return _Traits(numbers, any(word in NEGATIONS or word.endswith("n't") for word in words), words)


def _plain(number: str) -> str:
    """Digits without thousands commas, leading and trailing zeros; what is no decimal number (a date, 1,5) as it stands."""
    bare = number.replace(",", "") if THOUSANDS.fullmatch(number) else number
    found = DECIMAL.fullmatch(bare)
    return f"{found[1]}{found[2]}" + (f".{found[3]}" if found[3] else "") if found else number
