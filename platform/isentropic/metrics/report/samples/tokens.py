"""The tokens of a response with their colour: what each did to the entropy, else its surprise."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Decode = Callable[[Sequence[int]], str]  # token ids -> their text
Key = tuple[str, int, int, int]  # split, draw, wave, sample

MOST_TOKENS = 1500  # of a turn that the page keeps
STRONGEST = 80  # per cent of the colour; more would hide the letters
FAINTEST = 3  # per cent; what is fainter has no colour
UNFINISHED = "\ufffd"  # a tokenizer decodes a part of a character to this


@dataclass(frozen=True, kw_only=True)
class Token:
    """A piece of a response: its text, how strong which colour is, and what the pointer shows."""

    text: str
    tint: str = ""  # down | up | shade
    weight: int = 0  # per cent
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Legend:
    """What the colours of a page's samples mean: two of them with their ends, and a sentence."""

    ends: Sequence[Token]
    text: str


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The tokens of one turn, and the value of each that is known: nats."""

    ids: Sequence[int]
    values: Sequence[float | None]


def by_contribution(
    turns: Mapping[Key, Sequence[Turn]], decode: Decode
) -> tuple[dict[Key, list[list[Token]]], Legend]:
    """Colours tokens by their contributions to the entropy, blue below 0 and orange above.

    The strength goes with the square root: a few tokens do most of it, and would be all that shows.
    """
    values = _known(turns)
    low, high = min([0.0, *values]), max([0.0, *values])
    largest = max(-low, high) or 1.0

    def coloured(text: str, value: float | None) -> Token:
        if value is None:
            return Token(text=text)
        weight = round(STRONGEST * math.sqrt(min(1.0, abs(value) / largest)))
        tint = "down" if value < 0 else "up"
        return Token(text=text, tint=tint, weight=weight, title=f"{value:+.2g} nats")

    ends = [coloured(f"{value:+.2g} nats", value) for value in (low, high) if value]
    text = (
        "What each token did to the mean entropy in this step, momentum left out. Blue pulls it "
        "down, orange pushes it up; the strength goes with the square root."
    )
    return _tokens(turns, decode, coloured), Legend(ends=ends, text=text)


def by_surprise(
    turns: Mapping[Key, Sequence[Turn]], decode: Decode
) -> tuple[dict[Key, list[list[Token]]], Legend]:
    """Shades tokens by -log p, whose mean over many tokens is the entropy."""
    largest = max([0.0, *_known(turns)]) or 1.0

    def coloured(text: str, value: float | None) -> Token:
        if value is None:
            return Token(text=text)
        weight = round(STRONGEST * min(1.0, max(0.0, value) / largest))
        return Token(text=text, tint="shade", weight=weight, title=f"{value:.2g} nats")

    text = (
        "Shaded by each token's surprise, -log p; its mean over many tokens is the entropy. "
        "This step was not measured: accounting.ledger.every says which are."
    )
    ends = [coloured(f"{value:.2g} nats", value) for value in (0.0, largest)]
    return _tokens(turns, decode, coloured), Legend(ends=ends, text=text)


def pieces(decode: Decode, turn: Turn) -> Iterator[tuple[str, float | None]]:
    """Yields the text of each token with its value.

    Tokens that only together make a character are one piece. A token is decoded behind the one
    before it: alone, some tokenizers drop its leading space.
    """
    before: list[int] = []
    pending: list[int] = []
    sums: list[float] = []
    for index, (token, value) in enumerate(zip(turn.ids, turn.values, strict=True), start=1):
        pending.append(token)
        if value is not None:
            sums.append(value)
        text = decode([*before, *pending])[len(decode(before)) if before else 0 :]
        if text.endswith(UNFINISHED) and len(pending) < 4 and index < len(turn.ids):
            continue
        yield text, sum(sums) if sums else None
        before, pending, sums = pending, [], []


def _known(turns: Mapping[Key, Sequence[Turn]]) -> list[float]:
    return [
        value
        for own in turns.values()
        for turn in own
        for value in turn.values
        if value is not None and math.isfinite(value)
    ]


def _tokens(
    turns: Mapping[Key, Sequence[Turn]],
    decode: Decode,
    coloured: Callable[[str, float | None], Token],
) -> dict[Key, list[list[Token]]]:
    return {key: [_of_turn(turn, decode, coloured) for turn in own] for key, own in turns.items()}


def _of_turn(
    turn: Turn, decode: Decode, coloured: Callable[[str, float | None], Token]
) -> list[Token]:
    kept = Turn(ids=turn.ids[:MOST_TOKENS], values=turn.values[:MOST_TOKENS])
    tokens: list[Token] = []
    for text, value in pieces(decode, kept):
        token = coloured(text, value if value is not None and math.isfinite(value) else None)
        if token.weight < FAINTEST:
            token = Token(text=text)
            # Plain text in one piece: a page of long responses would be mostly tags.
            if tokens and not tokens[-1].tint:
                token = Token(text=tokens.pop().text + text)
        tokens.append(token)
    if rest := len(turn.ids) - MOST_TOKENS:
        tokens += [Token(text=f"\n... {rest} more tokens")] if rest > 0 else []
    return tokens
