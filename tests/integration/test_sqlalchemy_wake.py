"""A sender is woken by the commit of a SQLAlchemy session, and by nothing before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from outhaul.sqlalchemy import wake_after_commit


class Woken:
    """Counts."""

    def __init__(self) -> None:
        self.times = 0

    def wake(self) -> None:
        self.times += 1


@pytest.fixture
def session(outbox_dsn: str) -> Iterator[Session]:
    engine = sa.create_engine(outbox_dsn.replace("postgresql://", "postgresql+psycopg://", 1))
    with Session(engine) as opened:
        yield opened
    engine.dispose()


def test_a_commit_wakes_the_sender_once(session: Session) -> None:
    sender = Woken()
    session.execute(sa.text("SELECT 1"))
    wake_after_commit(session, sender)
    session.commit()
    assert sender.times == 1
    session.execute(sa.text("SELECT 1"))
    session.commit()
    assert sender.times == 1


def test_a_session_can_be_used_again_after_its_sender_was_woken(session: Session) -> None:
    sender = Woken()
    for _ in range(3):
        session.execute(sa.text("SELECT 1"))
        wake_after_commit(session, sender)
        session.commit()
    assert sender.times == 3


def test_a_rollback_wakes_nobody(session: Session) -> None:
    sender = Woken()
    session.execute(sa.text("SELECT 1"))
    wake_after_commit(session, sender)
    session.rollback()
    session.execute(sa.text("SELECT 1"))
    session.commit()
    assert sender.times == 0


def test_a_released_savepoint_wakes_nobody_yet(session: Session) -> None:
    sender = Woken()
    with session.begin_nested():
        wake_after_commit(session, sender)
        session.execute(sa.text("SELECT 1"))
    assert sender.times == 0
    session.commit()
    assert sender.times == 1
