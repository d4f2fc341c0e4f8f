"""The part of a command's help that teaches: examples, and the shape of its JSON."""

from __future__ import annotations

# click rewraps paragraphs unless they begin with this mark.
VERBATIM = "\b\n"


def teach(*examples: str, json: str = "") -> str:
    """An epilog of examples and, where the command has one, of its JSON document."""
    parts = [VERBATIM + "Examples:\n" + "\n".join(f"  {line}" for line in examples)]
    if json:
        parts.append(VERBATIM + "JSON:\n" + "\n".join(f"  {line}" for line in json.strip().splitlines()))
    return "\n\n".join(parts)
