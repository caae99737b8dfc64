"""Small matters of English that captions and questions share."""

from __future__ import annotations


def with_article(name: str) -> str:
    """`name` with its indefinite article, by its first letter (a u mostly sounds like "you")."""
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"
