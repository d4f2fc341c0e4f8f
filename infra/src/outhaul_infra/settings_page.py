"""`python -m outhaul_infra.settings_page`: the configuration reference, as docs/deployment-settings.md holds it."""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields
from typing import Any

from outhaul_infra.passwords import PASSWORDS
from outhaul_infra.setting_fields import PROJECT, camel, setting_of
from outhaul_infra.settings import SCALARS, SECTIONS

_HEAD = """# Settings of the stack

Generated from the typed settings by `python -m outhaul_infra.settings_page`; a test compares them. Everything is read
once and refused before anything is made, with the name of the setting and the way out.

A section is one object in `Pulumi.<stack>.yaml`, and `pulumi config set --path outhaul:rabbitmq.replicas 3` writes one
entry of it. An unknown name is refused with the nearest known one.
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    parts += [f"## {PROJECT}:{name}\n\n{kind.__doc__}\n\n{_table(list(fields(kind)))}" for name, kind in SECTIONS]
    parts.append(f"## The rest\n\nEach is a key of its own, such as `{PROJECT}:retainData`.\n\n{_table(list(SCALARS))}")
    secret_rows = "".join(f"| `{key}` | {what} |\n" for key, what in PASSWORDS.items())
    parts.append(
        "## Secrets\n\nMade once by `python -m outhaul_infra.secrets`, and encrypted in `Pulumi.<stack>.yaml`. "
        f"In plain text they are refused.\n\n| key | whose |\n|---|---|\n{secret_rows}"
    )
    return "\n".join(parts)


def _table(rows: list[Field[Any]]) -> str:
    lines = ["| setting | form | default | meaning |", "|---|---|---|---|"]
    for each in rows:
        setting = setting_of(each.metadata)
        lines.append(f"| `{camel(each.name)}` | {setting.form} | {_default(each)} | {setting.meaning} |")
    return "\n".join(lines) + "\n"


def _default(each: Field[Any]) -> str:
    if each.default is MISSING or each.default is None:
        return ""
    return f"`{each.default if isinstance(each.default, str) else json.dumps(each.default)}`"


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - a command prints
