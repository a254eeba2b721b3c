"""Which texts ask the same, whoever wrote them down: copies differ in blanks, capitals and characters."""

import unicodedata


def plain(text: str) -> str:
    """Returns a text in which the copies of other data sets are alike: NFKC, casefolded, blanks joined."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
