"""Two failures are told apart: nothing was written, and nobody knows."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.errors import lookup
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from outhaul.hosting.database import NotCommitted, OutcomeUnknown, failure_of


@pytest.mark.parametrize(
    "code", ["25006", "40001", "40P01", "42501", "42P01", "53100", "53300", "55P03", "57014", "58030"]
)
def test_a_refusal_by_the_server_means_that_nothing_was_written(code: str) -> None:
    failure = failure_of(lookup(code)(), sent=True)
    assert type(failure) is NotCommitted
    assert code in failure.why


@pytest.mark.parametrize("code", ["57P01", "57P02", "57P03", "08006"])
def test_a_server_that_ends_the_connection_leaves_it_unknown(code: str) -> None:
    assert type(failure_of(lookup(code)(), sent=True)) is OutcomeUnknown


def test_a_loss_before_the_statement_was_sent_means_that_nothing_was_written() -> None:
    error = psycopg.OperationalError("gone")
    assert type(failure_of(error, sent=False)) is NotCommitted
    assert type(failure_of(error, sent=True)) is OutcomeUnknown


@pytest.mark.parametrize("error", [PoolTimeout(), TooManyRequests(), PoolClosed()])
def test_no_connection_means_that_nothing_was_written(error: Exception) -> None:
    assert type(failure_of(error, sent=False)) is NotCommitted


@pytest.mark.parametrize("error", [lookup("22012")(), lookup("42601")(), psycopg.ProgrammingError(), ValueError()])
def test_a_mistake_in_the_program_is_not_taken_for_an_outage(error: Exception) -> None:
    assert failure_of(error, sent=True) is None
