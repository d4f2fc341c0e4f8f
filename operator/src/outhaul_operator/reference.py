"""The reference page of the custom resources, made from their definitions.

``python -m outhaul_operator.reference helm/outhaul/files/crds > docs/reference/custom-resources.md``; a test holds the
page and the definitions equal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

_ORDER: Final = ("outboxes", "inboxes", "resends", "redrives")
_HEAD: Final = """\
# Custom resources

<!-- Made by `python -m outhaul_operator.reference helm/outhaul/files/crds`; a test compares the two. -->

Group `outhaul.dev`, version `v1alpha1`, category `outhaul`: `kubectl get outhaul` shows all four kinds. The API server
refuses what does not follow the rules below, and says what to write instead. `kubectl explain outbox.spec` tells the
same as this page. [Examples](../../examples/custom-resources) are applied by a test.

A Secret that a resource names stands in the resource's own namespace and carries the label `outhaul.dev/allow: "true"`.
Durations are whole numbers with their units: `30s`, `5m`, `1h30m`; where days make sense also `7d`.
"""
_DURATION: Final = "duration("


def page(folder: Path) -> str:
    """The whole page, from the definitions in ``folder``."""
    crds = [yaml.safe_load((folder / f"{plural}.yaml").read_text(encoding="utf-8")) for plural in _ORDER]
    return "\n".join([_HEAD, *(line for crd in crds for line in _kind(crd))]).rstrip() + "\n"


def _kind(crd: Mapping[str, Any]) -> Iterator[str]:
    names, version = crd["spec"]["names"], crd["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    yield f"## {names['kind']}\n"
    yield f"{schema['description']}\n"
    yield f"`kubectl get {names['plural']}`, in short `{names['shortNames'][0]}`, shows:\n"
    yield "| column | meaning |\n|---|---|"
    for column in version["additionalPrinterColumns"]:
        wide = " (with `-o wide`)" if column.get("priority") else ""
        yield f"| {column['name'].upper()}{wide} | {column.get('description', 'Since when it is there.')} |"
    for part in ("spec", "status"):
        found = schema["properties"][part]
        yield f"\n### `{names['singular']}.{part}`\n"
        yield f"{found['description']}\n"
        yield from _rules(found)
        yield "| field | form | default | meaning |\n|---|---|---|---|"
        yield from _rows(found, "")
    yield ""


def _rules(schema: Mapping[str, Any]) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield f"- {rule['message']}"
    if schema.get("x-kubernetes-validations"):
        yield ""


def _rows(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        here = f"{path}{name}"
        default = field.get("default")
        shown = f"`{_plain(default)}`" if "default" in field and default != {} else ""
        if name in required:
            shown = "**required**"
        meaning = " ".join(str(field.get("description", "")).split())
        if field["type"] == "object":
            meaning += "".join(f" Refused otherwise: {rule['message']}." for rule in _validations(field))
        yield f"| `{here}` | {_form(field)} | {shown} | {_escaped(meaning)} |"
        if field["type"] == "object":
            yield from _rows(field, f"{here}.")
        elif field["type"] == "array" and field["items"]["type"] == "object" and not here.startswith("conditions"):
            yield from _rows(field["items"], f"{here}[].")


def _form(field: Mapping[str, Any]) -> str:
    kind = str(field["type"])
    if kind == "array":
        return _array(field)
    if kind == "integer":
        bounds = [str(field[name]) for name in ("minimum", "maximum") if name in field]
        return f"integer, {bounds[0]} to {bounds[1]}" if len(bounds) == 2 else kind
    if field.get("format") == "date-time":
        return "instant"
    if field.get("enum"):
        return ", ".join(f"`{value}`" for value in field["enum"])
    if kind == "string" and any(_DURATION in rule["rule"] for rule in _validations(field)):
        return "duration"
    return {"boolean": "true or false", "object": "object", "string": "text"}[kind]


def _array(field: Mapping[str, Any]) -> str:
    item = {"object": "objects", "string": "texts"}[field["items"]["type"]]
    least, most = field.get("minItems", 0), field.get("maxItems")
    return f"list of {item}, {f'{least} to' if least else 'at most'} {most}"


def _validations(field: Mapping[str, Any]) -> list[Mapping[str, str]]:
    return list(field.get("x-kubernetes-validations", ()))


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


if __name__ == "__main__":
    sys.stdout.write(page(Path(sys.argv[1] if len(sys.argv) > 1 else "helm/outhaul/files/crds")))
