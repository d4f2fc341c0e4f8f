"""Bad input is refused with the field's name, and good input is taken as it is."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outhaul.hosting.problems import Problem
from outhaul_order.models import MAX_CENTS, MAX_LINES, MAX_QUANTITY
from outhaul_order.validation import parse_idempotency_key, parse_order

LINE = {"sku": "kettle", "quantity": 2, "unit_price_cents": 1999}
ORDER = {"customer": "Ada", "lines": [LINE]}


def refusal(body: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        parse_order(body)
    document = json.loads(caught.value.body())
    assert document["status"] == caught.value.kind.status
    assert 400 <= document["status"] < 500
    assert document["detail"]
    return caught.value


def changed(**members: Any) -> bytes:
    return json.dumps({**ORDER, **members}).encode()


def with_line(**members: Any) -> bytes:
    return changed(lines=[LINE, {**LINE, **members}])


def test_a_good_order_is_taken_with_its_total() -> None:
    valid = parse_order(json.dumps(ORDER).encode())
    assert valid.order.customer == "Ada"
    assert valid.order.lines[0].sku == "kettle"
    assert valid.total_cents == 3998


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"order",
        b"\x00",
        b'{"customer": "Ada", "lines": [}',
        json.dumps(ORDER).encode() + b" x",
        b"\xef\xbb\xbf" + json.dumps(ORDER).encode(),
        json.dumps(ORDER).encode("utf-16"),
        b'{"customer": "\xff", "lines": []}',
        b'{"customer": "\xed\xa0\x80", "lines": []}',
        b'{"customer": "\\ud800", "lines": []}',
        b'{"customer": "\\udc00\\ud800", "lines": []}',
        b'{"customer": "A\x01da", "lines": []}',
        b'{"customer": NaN, "lines": []}',
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    problem = refusal(body)
    assert problem.kind.slug == "malformed-json"
    assert problem.field == "body"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"null", "body"),
        (b"[]", "body"),
        (b'"order"', "body"),
        (b"{}", "customer"),
        (b'{"customer": "Ada"}', "lines"),
        (changed(customer=None), "customer"),
        (changed(customer=7), "customer"),
        (changed(customer=["Ada"]), "customer"),
        (changed(customer=""), "customer"),
        (changed(customer=" \t"), "customer"),
        (changed(customer="A\x00da"), "customer"),
        (changed(customer="A" * 201), "customer"),
        (changed(note="quick"), "note"),
        (changed(lines=None), "lines"),
        (changed(lines={}), "lines"),
        (changed(lines=[]), "lines"),
        (changed(lines=[7]), "lines[0]"),
        (changed(lines=[LINE] * (MAX_LINES + 1)), "lines"),
        (changed(lines=[{"sku": "kettle", "quantity": 1}]), "lines[0].unit_price_cents"),
        (with_line(sku=""), "lines[1].sku"),
        (with_line(sku="  "), "lines[1].sku"),
        (with_line(sku=12), "lines[1].sku"),
        (with_line(sku="\x00"), "lines[1].sku"),
        (with_line(sku="s" * 65), "lines[1].sku"),
        (with_line(colour="red"), "lines[1].colour"),
        (with_line(quantity=0), "lines[1].quantity"),
        (with_line(quantity=-1), "lines[1].quantity"),
        (with_line(quantity=MAX_QUANTITY + 1), "lines[1].quantity"),
        (with_line(quantity=2**31), "lines[1].quantity"),
        (with_line(quantity=2**63), "lines[1].quantity"),
        (with_line(quantity=10**400), "lines[1].quantity"),
        (with_line(quantity=1.5), "lines[1].quantity"),
        (with_line(quantity=1.0), "lines[1].quantity"),
        (with_line(quantity="1"), "lines[1].quantity"),
        (with_line(quantity=True), "lines[1].quantity"),
        (with_line(quantity=None), "lines[1].quantity"),
        (with_line(unit_price_cents=-1), "lines[1].unit_price_cents"),
        (with_line(unit_price_cents=2**63), "lines[1].unit_price_cents"),
        (with_line(unit_price_cents=MAX_CENTS + 1), "lines[1].unit_price_cents"),
    ],
)
def test_what_is_no_order_is_refused_by_its_field(body: bytes, field: str) -> None:
    problem = refusal(body)
    assert problem.kind.slug == "invalid-field"
    assert problem.field == field
    assert json.loads(problem.body())["errors"] == [{"field": field, "detail": problem.detail}]


def test_a_total_beyond_what_json_numbers_carry_is_refused() -> None:
    line = {**LINE, "quantity": 1, "unit_price_cents": MAX_CENTS}
    assert parse_order(changed(lines=[line])).total_cents == MAX_CENTS
    assert refusal(changed(lines=[line, {**line, "unit_price_cents": 1}])).field == "lines"
    assert refusal(changed(lines=[{**line, "quantity": MAX_QUANTITY}] * MAX_LINES)).field == "lines"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"customer":"Ada","customer":"Bob","lines":[{"sku":"a","quantity":1,"unit_price_cents":1}]}', "customer"),
        (b'{"customer":"Ada","lines":[{"sku":"a","quantity":1,"quantity":2,"unit_price_cents":1}]}', "quantity"),
        (
            b'{"customer":"Ada","lines":[],"lines":[{"sku":"\\"","quantity":1,"unit_price_cents":1}]}',
            "lines",
        ),
    ],
)
def test_a_field_given_twice_is_refused(body: bytes, field: str) -> None:
    assert refusal(body).field == field


@pytest.mark.parametrize("depth", [100, 10_000, 200_000])
@pytest.mark.parametrize(
    "start", [b"", b'{"customer":', b'{"note":', b'{"lines":', b'{"customer":"Ada","lines":[{"sku":']
)
def test_nesting_of_any_depth_is_refused(start: bytes, depth: int) -> None:
    refusal(start + b"[" * depth)
    refusal(start + b'{"a":' * depth)


def test_a_problem_never_gives_much_of_the_input_back() -> None:
    assert len(refusal(changed(**{"x" * 5000: 1})).body()) < 1000


TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=64).filter(
    lambda text: not text.isspace()
)
LINES = st.lists(
    st.fixed_dictionaries({"sku": TEXT, "quantity": st.integers(1, 1000), "unit_price_cents": st.integers(0, 10**9)}),
    min_size=1,
    max_size=5,
)


@given(TEXT, LINES, st.booleans())
def test_every_order_within_the_bounds_is_taken_unchanged(
    customer: str, lines: list[dict[str, Any]], escaped: bool
) -> None:
    body = json.dumps({"customer": customer, "lines": lines}, ensure_ascii=escaped).encode()
    valid = parse_order(body)
    assert json.loads(msgspec.json.encode(valid.order)) == {"customer": customer, "lines": lines}
    assert valid.total_cents == sum(line["quantity"] * line["unit_price_cents"] for line in lines)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["customer", "lines", "sku", "quantity"]), inner),
)


@given(st.one_of(st.binary(), JSON_VALUES.map(lambda value: json.dumps(value).encode())))
def test_anything_else_is_a_problem_and_nothing_but_a_problem(body: bytes) -> None:
    try:
        parse_order(body)
    except Problem as problem:
        json.loads(problem.body())


@pytest.mark.parametrize("key", [b"a", b"8e03978e-40d5-43dd-bc93-6894a57f9324", b'"quoted"', b"~" * 255])
def test_a_good_key_is_taken_as_it_is(key: bytes) -> None:
    assert parse_idempotency_key([key]) == key.decode()


@pytest.mark.parametrize("keys", [[b""], [b"a b"], [b"a" * 256], [b"\x7f"], ["é".encode()], [b"a\x00"], [b"a", b"a"]])
def test_a_bad_key_is_refused(keys: list[bytes]) -> None:
    with pytest.raises(Problem) as caught:
        parse_idempotency_key(keys)
    assert caught.value.kind.status == 400
    assert caught.value.field == "Idempotency-Key"


def test_no_key_is_fine() -> None:
    assert parse_idempotency_key([]) is None
