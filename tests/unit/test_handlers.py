from __future__ import annotations

import dataclasses
import sys
from typing import Any, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest

from outhaul.consuming.handlers import Registry, decode_data, decoder_of
from outhaul.errors import ConfigurationError, InvalidMessage


class Model(pydantic.BaseModel):
    sku: str
    quantity: int = pydantic.Field(gt=0)


@dataclasses.dataclass
class Data:
    sku: str
    quantity: int


class Struct(msgspec.Struct):
    sku: str
    quantity: int


class Typed(TypedDict):
    sku: str
    quantity: int


class Tuple(NamedTuple):
    sku: str
    quantity: int


def nothing(message: Any, tx: Any) -> None:
    """A handler."""


async def nothing_async(message: Any, tx: Any) -> None:
    """An async handler."""


def registered(data: Any) -> Registry:
    registry = Registry()
    registry.add("shop.order.created.v1", nothing, data=data, batch=False)
    return registry


def decoded(data: Any, raw: Any) -> Any:
    return decode_data(registered(data).find("shop.order.created.v1"), raw)


GOOD = {"sku": "a", "quantity": 2}


@pytest.mark.parametrize("model", [Model, Data, Struct])
def test_data_becomes_the_handlers_model(model: Any) -> None:
    value = decoded(model, GOOD)
    assert isinstance(value, model)
    assert (value.sku, value.quantity) == ("a", 2)


def test_plain_shapes_are_checked_too() -> None:
    assert decoded(Typed, GOOD) == GOOD
    assert decoded(Tuple, ["a", 2]) == Tuple("a", 2)
    assert decoded(list[Data], [GOOD]) == [Data("a", 2)]
    assert decoded(dict, GOOD) == GOOD
    assert decoded(None, [1]) == [1]


def test_any_callable_may_decode() -> None:
    assert decoded(lambda raw: raw["sku"], GOOD) == "a"


@pytest.mark.parametrize("model", [Model, Data, Struct, Typed, Tuple, dict, list[Data], lambda raw: raw["sku"]])
@pytest.mark.parametrize("raw", [None, 3, "text", [], {"sku": 1, "quantity": "many"}])
def test_data_that_does_not_fit_is_invalid(model: Any, raw: Any) -> None:
    if isinstance(raw, list) and model == list[Data]:
        return
    if isinstance(raw, dict) and (model is dict or not isinstance(model, type)):
        return
    with pytest.raises(InvalidMessage) as caught:
        decoded(model, raw)
    assert caught.value.reason == "invalid-data"


def test_a_type_is_matched_exactly() -> None:
    registry = registered(None)
    assert registry.find("shop.order.created.v1").function is nothing
    for name in ("shop.order.created", "shop.order.CREATED.v1", "shop.order.created.v1 ", "x"):
        with pytest.raises(InvalidMessage) as caught:
            registry.find(name)
        assert caught.value.reason == "unknown-type"


def test_another_version_of_a_known_type_is_told_apart() -> None:
    with pytest.raises(InvalidMessage, match=r"takes shop\.order\.created\.v1") as caught:
        registered(None).find("shop.order.created.v2")
    assert caught.value.reason == "unknown-version"


def test_a_second_handler_of_a_type_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="has a handler already"):
        registered(None).add("shop.order.created.v1", nothing, data=None, batch=True)


def test_sync_and_async_handlers_do_not_mix() -> None:
    registry = registered(None)
    assert not registry.is_async
    with pytest.raises(ConfigurationError, match="all sync or all async"):
        registry.add("shop.order.paid.v1", nothing_async, data=None, batch=False)


def test_an_object_whose_call_is_async_is_an_async_handler() -> None:
    class Handler:
        async def __call__(self, message: Any, tx: Any) -> None:
            """Awaited."""

    registry = Registry()
    registry.add("t.v1", Handler(), data=None, batch=False)
    assert registry.is_async


def test_a_model_that_needs_msgspec_says_so_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgspec", None)
    with pytest.raises(ConfigurationError, match=r"outhaul\[msgspec\]"):
        decoder_of(Data)


def test_a_model_msgspec_cannot_decode_is_refused_at_registration() -> None:
    class Strange:
        """Unknown to msgspec."""

    with pytest.raises(ConfigurationError, match="msgspec"):
        decoder_of(list[Strange])


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="handler data"):
        decoder_of(42)
