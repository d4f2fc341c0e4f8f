from __future__ import annotations

import psycopg
import pytest

from outhaul.consuming.failures import Fault, TransactionEnded, fault_of, permanent_reason
from outhaul.errors import InvalidMessage, Reject


def database_error(state: str) -> psycopg.Error:
    error = psycopg.errors.lookup(state)("told by the server")
    assert error.sqlstate == state
    return error


def wrapped(cause: BaseException) -> Exception:
    """As SQLAlchemy and others hand it on."""
    error = RuntimeError("wrapped")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03"])
def test_a_conflict_between_transactions_is_nobodys_fault(state: str) -> None:
    assert fault_of(database_error(state), connected=True) is Fault.TRANSIENT
    assert fault_of(wrapped(database_error(state)), connected=True) is Fault.TRANSIENT


@pytest.mark.parametrize("state", ["08006", "25006", "53100", "53200", "53300", "57P01", "57P02", "57P03", "58030"])
def test_a_server_that_is_away_full_or_read_only_is_the_environments_fault(state: str) -> None:
    assert fault_of(database_error(state), connected=True) is Fault.ENVIRONMENT
    assert fault_of(wrapped(database_error(state)), connected=True) is Fault.ENVIRONMENT


@pytest.mark.parametrize("state", ["23505", "23503", "22012", "42P01", "57014", "P0001"])
def test_what_the_data_or_the_handler_causes_is_the_messages_fault(state: str) -> None:
    assert fault_of(database_error(state), connected=True) is Fault.MESSAGE


def test_any_error_over_a_lost_connection_is_the_environments_fault() -> None:
    assert fault_of(ValueError("looks like mine"), connected=False) is Fault.ENVIRONMENT
    assert fault_of(database_error("23505"), connected=False) is Fault.ENVIRONMENT


def test_another_database_that_is_away_is_the_handlers_own_business() -> None:
    assert fault_of(psycopg.OperationalError("connection refused"), connected=True) is Fault.MESSAGE


def test_a_reject_stays_the_messages_fault_whatever_led_to_it() -> None:
    error = Reject("no")
    error.__cause__ = database_error("40001")
    assert fault_of(error, connected=True) is Fault.MESSAGE


def test_what_another_attempt_cannot_mend_has_a_reason() -> None:
    assert permanent_reason(Reject("no")) == "rejected"
    assert permanent_reason(InvalidMessage("no-such-sku", "4711")) == "no-such-sku"
    assert permanent_reason(TransactionEnded("committed")) == "transaction-ended"
    assert permanent_reason(database_error("23505")) == "unique-violation"
    assert permanent_reason(wrapped(database_error("23505"))) == "unique-violation"
    assert permanent_reason(database_error("23503")) is None
    assert permanent_reason(ValueError("no")) is None
