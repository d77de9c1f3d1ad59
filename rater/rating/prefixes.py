"""Longest-prefix match over a million prefixes: one search in a sorted array of machine words.

The numbers of up to `MAX_DIGITS` digits lie on a line, and prefixes cut it into intervals in each of
which one prefix is the longest that matches. A word stands for the start of an interval:

    44 bits  the prefix's digits, filled up with zeros to MAX_DIGITS
     4 bits  how many digits it has
    16 bits  which answer holds from here on, an index into `answers`

A number's word is made in the same way, with all answer bits set, and the last word that is not
above it tells the answer. The count of digits orders `02` before `0200`: a number that is shorter
than a prefix comes before it, and so is never taken for one that it matches. `starts` says for the
upper bits of a word where in the array to search.

That is 8 bytes an interval and some 3 in `starts`, in two blocks of memory that are read from the
store as they are: no text is kept, nothing is parsed, and whoever drops them frees them at once.
Prefixes that are not digits only, or longer, are in a dictionary; where one of them matches, it is
longer than all others that do. So are all prefixes of a small table.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from typing import Final, NamedTuple

MAX_DIGITS: Final = 13
"""10^13 fits 44 bits. Prefixes of a tariff have up to 11 digits, a full number 15 at most."""

WORD_BITS: Final = 64
LENGTH_BITS: Final = 4
ANSWER_BITS: Final = 16
ANSWER_MASK: Final = (1 << ANSWER_BITS) - 1

MAX_PACKED_ANSWERS: Final = 1 << ANSWER_BITS
"""With more than these the answers have an array of their own, `wide`: a lookup then reads one more."""

MAX_LISTED: Final = 2000
"""A table of up to so many prefixes is a dictionary as a whole: it fits a processor's caches, and
is twice as fast there. Beyond it fewer and fewer lookups would find what they need in a cache."""

MIN_START_BITS: Final = 8
MAX_START_BITS: Final = 21
"""Of a word: `starts` has an entry for each value of these. About as many as there are intervals, so
that few are left to search; 21 are 4.8 MB."""

SCALES: Final = tuple(10 ** (MAX_DIGITS - n) << (LENGTH_BITS + ANSWER_BITS) for n in range(MAX_DIGITS + 1))
TAILS: Final = tuple((n << ANSWER_BITS) | ANSWER_MASK for n in range(MAX_DIGITS + 1))
"""A number of n digits has the word int(digits) × SCALES[n] + TAILS[n]."""

_TOP: Final = 10**MAX_DIGITS << (LENGTH_BITS + ANSWER_BITS)
_LEADING_DIGITS: Final = re.compile("[0-9]*")


class Answer(NamedTuple):
    """What holds in an interval."""

    length: int
    """Of the prefix; 0 where none matches."""
    value: int
    parent: int
    """The answer of the next shorter prefix that matches; 0, which matches nothing, where nobody asks."""


NO_ANSWER: Final = Answer(0, 0, 0)
"""Always the first one."""


class Packed(NamedTuple):
    """A table as it is written and sent."""

    start_bits: int
    words: array[int]
    starts: array[int]
    wide: array[int]
    """The answer of each word, where there are too many for the words themselves; else empty."""
    answers: list[Answer]
    others: list[tuple[str, int]]
    """Prefixes that are not of up to `MAX_DIGITS` digits, with their values; all of a small table."""


class PrefixTable:
    """Finds the longest prefix of a number."""

    __slots__ = ("other_lengths", "others", "shift", "starts", "wide", "words")

    def __init__(
        self,
        start_bits: int,
        words: array[int],
        starts: array[int],
        wide: array[int],
        others: dict[str, int],
    ) -> None:
        """Raises ValueError for columns that do not belong together."""
        self.words = words
        self.starts = starts
        self.wide = wide or None
        self.shift = WORD_BITS - start_bits
        self.others = others
        self.other_lengths = tuple(sorted(set(map(len, others)), reverse=True))
        if not MIN_START_BITS <= start_bits <= MAX_START_BITS:
            raise ValueError(f"a prefix table starts by {start_bits} bits")
        if len(starts) != _heads(start_bits) or starts[-1] != len(words) or words[0] >> ANSWER_BITS:
            raise ValueError("the columns of a prefix table do not belong together")
        if wide and len(wide) != len(words):
            raise ValueError(f"a prefix table has {len(words)} words and {len(wide)} answers")

    def find(self, number: str) -> int:
        """Which answer holds for the number, by its longest prefix that is not among the others."""
        digits = number if number.isascii() and number.isdecimal() else leading_digits(number)
        count = len(digits)
        if count <= MAX_DIGITS:
            word = int(digits or "0") * SCALES[count] + TAILS[count]
        else:
            word = int(digits[:MAX_DIGITS]) * SCALES[MAX_DIGITS] + TAILS[MAX_DIGITS]
        head = word >> self.shift
        place = bisect_right(self.words, word, self.starts[head], self.starts[head + 1]) - 1
        return self.words[place] & ANSWER_MASK if self.wide is None else self.wide[place]


def leading_digits(number: str) -> str:
    """Those that `int` and a table of digits agree about: 0 to 9."""
    found = _LEADING_DIGITS.match(number)
    assert found is not None
    return found[0]


def is_packable(prefix: str) -> bool:
    return len(prefix) <= MAX_DIGITS and prefix.isascii() and prefix.isdecimal()


def pack(prefixes: Mapping[str, int], *, nested: bool = False) -> Packed:
    """A table for values by prefix. `nested`: answers know their parents. An empty prefix is left out."""
    sweep = _Sweep(nested)
    packable = set(filter(is_packable, prefixes)) if len(prefixes) > MAX_LISTED else set()
    for prefix in sorted(packable):
        sweep.add(prefix, prefixes[prefix])
    words, wide = sweep.finish()
    start_bits = min(max(len(words).bit_length(), MIN_START_BITS), MAX_START_BITS)
    others = [(each, value) for each, value in prefixes.items() if each and each not in packable]
    starts = _starts(words, start_bits)
    return Packed(start_bits, words, starts, wide, list(sweep.answers), others)


class _Sweep:
    """Goes over prefixes in their order, and notes where another answer begins."""

    def __init__(self, nested: bool) -> None:
        self.answers: dict[Answer, int] = {NO_ANSWER: 0}
        self._nested = nested
        self._begins = array("Q", [0])
        """Words with answer bits 0."""
        self._holds = array("I", [0])
        self._open: list[tuple[int, int]] = [(1 << WORD_BITS, 0)]
        """End and answer of the prefixes around this place, the widest first."""

    def add(self, prefix: str, value: int) -> None:
        count = len(prefix)
        scale = SCALES[count]
        begin = int(prefix) * scale
        self._close(begin)
        if self._begins[-1] == begin and not prefix.endswith("0"):
            # What ended here is over at once: no number that is shorter than the prefix has its digits.
            del self._begins[-1], self._holds[-1]
        answer = Answer(count, value, self._open[-1][1] if self._nested else 0)
        index = self.answers.setdefault(answer, len(self.answers))
        self._note(begin | count << ANSWER_BITS, index)
        self._open.append((begin + scale, index))

    def finish(self) -> tuple[array[int], array[int]]:
        """The words and, where it is needed, the answer of each."""
        self._close(_TOP)
        if len(self.answers) > MAX_PACKED_ANSWERS:
            return self._begins, self._holds
        words = array("Q", map(int.__or__, self._begins, self._holds))
        return words, array("I")

    def _close(self, until: int) -> None:
        while self._open[-1][0] <= until:
            end, _ = self._open.pop()
            self._note(end, self._open[-1][1])

    def _note(self, begin: int, answer: int) -> None:
        if self._begins[-1] == begin:
            self._holds[-1] = answer
        elif self._holds[-1] != answer:
            self._begins.append(begin)
            self._holds.append(answer)


def _heads(start_bits: int) -> int:
    return (_TOP >> WORD_BITS - start_bits) + 3


def _starts(words: array[int], start_bits: int) -> array[int]:
    """For each value of a word's upper bits, how many words are below it; one more for the last one."""
    shift = WORD_BITS - start_bits
    starts = array("I", bytes(4 * _heads(start_bits)))
    for word in words:
        starts[(word >> shift) + 1] += 1
    total = 0
    for head, here in enumerate(starts):
        total += here
        starts[head] = total
    return starts
