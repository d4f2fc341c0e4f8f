"""Every field of the definitions, by its schema: a real API server refuses what is just out of its bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from cluster.custom_resources import FIELDS, GOOD, body, refused, with_value
from cluster.kube import Kube

pytestmark = pytest.mark.usefixtures("crds")


def beyond(found: Mapping[str, Any]) -> Iterator[tuple[object, str]]:
    """Values just out of a field's bounds, and of another type than its own."""
    yield {}, "date-time" if found.get("format") == "date-time" else found["type"]
    if "minimum" in found:
        yield found["minimum"] - 1, f"greater than or equal to {found['minimum']}"
    if "maximum" in found:
        yield found["maximum"] + 1, f"less than or equal to {found['maximum']}"
    if "maxLength" in found:
        yield "a" * (found["maxLength"] + 1), str(found["maxLength"])
    if found["type"] == "array":
        one = "0193a1b2-7c4d-7e10-9f00-{:012x}" if found["items"].get("maxLength", 255) <= 36 else "a{}"
        yield [one.format(number) for number in range(found["maxItems"] + 1)], str(found["maxItems"])


@pytest.mark.parametrize(("kind", "path", "found"), FIELDS, ids=[f"{kind}-{path}" for kind, path, _ in FIELDS])
def test_every_field_is_held_to_its_bounds_and_its_type(
    kube: Kube, kind: str, path: str, found: Mapping[str, Any]
) -> None:
    for value, says in beyond(found):
        assert says in refused(kube, "default", body(kind, with_value(GOOD[kind], path, value)))
