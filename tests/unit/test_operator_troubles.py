from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from outhaul.errors import BrokerUnreachable, ConfigurationError, DatabaseUnreachable, SchemaError, TopologyError
from outhaul_operator import troubles

AT = "db:5432/shop"
SERVER = 'connection failed: connection to server at "10.0.0.7", port 5432 failed: '


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ('FATAL:  password authentication failed for user "shop"', "CredentialsRefused"),
        ("fe_sendauth: no password supplied", "CredentialsRefused"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.9"', "CredentialsRefused"),
        ('FATAL:  role "shop" does not exist', "CredentialsRefused"),
        ('FATAL:  role "shop" is not permitted to log in', "CredentialsRefused"),
        ("FATAL:  server login has been failing, try again later (server_login_retry)", "CredentialsRefused"),
        ('FATAL:  database "shop" does not exist', "DatabaseMissing"),
        ("FATAL:  no such database: shop", "DatabaseMissing"),
        ('FATAL:  permission denied for database "shop"', "PermissionDenied"),
        ("FATAL:  sorry, too many clients already", "TooManyConnections"),
        ('FATAL:  too many connections for role "shop"', "TooManyConnections"),
        ("FATAL:  remaining connection slots are reserved for roles with", "TooManyConnections"),
        ("FATAL:  the database system is starting up", "Unreachable"),
        ("FATAL:  the database system is in recovery mode", "Unreachable"),
        ("session is read-only", "ReadOnly"),
        ("Connection refused", "Unreachable"),
        ("timeout expired", "Unreachable"),
        ('could not translate host name "db" to address: Name or service not known', "Unreachable"),
        ("server closed the connection unexpectedly", "Unreachable"),
        ("SSL error: certificate verify failed", "Unreachable"),
    ],
)
def test_a_connection_that_could_not_be_made_is_sorted_by_the_servers_words(words: str, reason: str) -> None:
    for error in (psycopg.OperationalError(SERVER + words), DatabaseUnreachable(AT, "x")):
        if isinstance(error, DatabaseUnreachable):
            error.__cause__ = psycopg.OperationalError(SERVER + words)
        found = troubles.of_database(error, AT)
        assert found.reason == reason
        assert found.message.startswith(f"database at {AT}: ")
        assert "; " in found.message  # a remedy


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.UndefinedTable('relation "outbox" does not exist'), "SchemaMissing"),
        (errors.UndefinedColumn("column"), "SchemaMissing"),
        (errors.UndefinedFunction("function"), "SchemaMissing"),
        (errors.InsufficientPrivilege("permission denied for table outbox"), "PermissionDenied"),
        (errors.ReadOnlySqlTransaction("cannot execute UPDATE"), "ReadOnly"),
        (errors.QueryCanceled("canceling statement due to statement timeout"), "TimedOut"),
        (errors.LockNotAvailable("canceling statement due to lock timeout"), "Locked"),
        (errors.DiskFull("could not extend file"), "OutOfResources"),
        (errors.AdminShutdown("terminating connection"), "Unreachable"),
        (errors.DivisionByZero("division by zero"), "Refused"),
        (SchemaError("schema outbox lacks version 2"), "SchemaMissing"),
    ],
)
def test_a_refused_statement_is_sorted_by_its_code(error: Exception, reason: str) -> None:
    assert troubles.of_database(error, AT).reason == reason


def test_no_part_of_a_secret_is_told() -> None:
    error = psycopg.OperationalError("FATAL:  cannot use postgresql://shop:s3cret@db/shop password=s3cret")
    assert "s3cret" not in troubles.of_database(error, AT).message
    invalid = ConfigurationError("AMQP URL", "amqp://***@h", "names no host")
    assert troubles.secret_invalid(invalid).message == "the Secret's AMQP URL: names no host"


def test_a_broker_that_refuses_is_told_apart_from_one_that_is_away() -> None:
    away = troubles.of_broker(BrokerUnreachable("b:5672/x", "connection refused", "start it"))
    refusing = troubles.of_broker(BrokerUnreachable("b:5672/x", "login refused", "check it", refused=True))
    assert [each.reason for each in (away, refusing)] == [
        "Unreachable",
        "CredentialsRefused",
    ]
    assert troubles.of_broker(TopologyError("no permissions")).reason == "PermissionDenied"
