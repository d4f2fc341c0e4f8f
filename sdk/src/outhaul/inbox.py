"""The inbox: effect and inbox row are committed together, so a message takes effect once however often it comes.

`Inbox.process` is a generator of steps without I/O of its own. It decides what becomes of each delivery and reports it
as soon as that is certain: DONE and DUPLICATE are facts in the database by then; RETRIED and DEAD_LETTERED name a
letter to be published before the ack. What it could not decide because the environment is away, it leaves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psycopg

from outhaul.consuming.delivery import Delivery, Outcome, Result
from outhaul.consuming.failures import Fault, TransactionEnded, fault_of, permanent_reason, text_of
from outhaul.consuming.handlers import Registry
from outhaul.consuming.preparation import Preparation, Prepared, Rules, fact_of
from outhaul.consuming.steps import BEGIN, COMMIT, IS_CONNECTED, ROLLBACK, CallEach, CallMany, Execute, Once, Steps
from outhaul.database import inbox_queries
from outhaul.deadletter import Reason, describe_error, failed_of
from outhaul.errors import InvalidMessage, OuthaulError
from outhaul.failpoints import COMMIT_ACK, INSERT_COMMIT

Report = Callable[[Sequence[Outcome]], None]


class Held(OuthaulError):
    """Not the messages' fault: what is left of the batch waits. ``transient``: it may work at once (a deadlock)."""

    def __init__(self, cause: BaseException, *, transient: bool) -> None:
        super().__init__(describe_error(cause))
        self.transient = transient
        self.__cause__ = cause


class Inbox:
    """Decides about deliveries. Holds what must survive from one batch to the next in this process."""

    def __init__(self, rules: Rules, registry: Registry) -> None:
        self.rules = rules
        self._preparation = Preparation(rules, registry)
        self.clock = self._preparation.clock
        # Runs of held messages that are on record already: held is not crashed, so each counts once.
        self._started: set[str] = set()
        self._transient: dict[str, int] = {}
        self._to_take_back: set[str] = set()
        self._until = math.inf
        self._idle_milliseconds = str(math.ceil(rules.idle_seconds * 1000))

    def process(self, batch: Sequence[Delivery], report: Report) -> Steps[tuple[list[Delivery], Held | None]]:
        """Decide about a batch. Returns what is left over, and why: None when a slow batch was only cut."""
        left = {id(delivery): delivery for delivery in batch}

        def settle(outcomes: Sequence[Outcome]) -> None:
            for outcome in outcomes:
                left.pop(id(outcome.delivery), None)
            if self._started or self._transient:
                for outcome in outcomes:
                    self._started.discard(outcome.message_id or "")
                    self._transient.pop(outcome.message_id or "", None)
            report(outcomes)

        held = None
        self._until = time.monotonic() + self.rules.cut_seconds
        try:
            if self.clock.is_stale:
                yield from self.read_clock()
            yield from self._take_back()
            ready, refused = self._preparation.prepare(batch)
            if refused:
                settle(refused)
            yield from self._together([p for p in ready if not p.delivery.redelivered], settle)
            yield from self._redelivered([p for p in ready if p.delivery.redelivered], settle)
        except Held as error:
            held = error
        return list(left.values()), held

    def read_clock(self) -> Steps[None]:
        """Learn the database's time and what its inbox has forgotten."""
        [(now, forgotten_before)] = yield from self._own(Once(inbox_queries.CLOCK))
        self.clock.read(now, forgotten_before)

    def probe(self) -> Steps[None]:
        """Raises Held when the database is away."""
        yield from self._own(Once(inbox_queries.PROBE))

    def clear(self, message_ids: Iterable[str]) -> Steps[None]:
        """Forget the failures and crashes of messages that came to their end."""
        ids = sorted(set(message_ids))
        if ids:
            yield from self._own(Once(inbox_queries.CLEAR, (self.rules.consumer, _array(ids))))

    def release(self) -> Steps[None]:
        """Held messages are given back on an orderly stop: their runs did not crash."""
        if self._started:
            yield from self._own(Once(inbox_queries.UNSTART, (self.rules.consumer, _array(sorted(self._started)))))
            self._started.clear()

    def _take_back(self) -> Steps[None]:
        if self._to_take_back:
            ids = _array(sorted(self._to_take_back))
            yield from self._own(Once(inbox_queries.TAKE_BACK, (self.rules.consumer, ids)))
            self._to_take_back.clear()

    def _together(self, ready: list[Prepared], settle: Report) -> Steps[None]:
        """One transaction for all of them; where it fails, one for each."""
        if not ready:
            return
        taken: list[str] = []
        connected = True
        try:
            yield BEGIN
            outcomes = yield from self._transaction(ready, taken)
            INSERT_COMMIT.hit()
            yield COMMIT
        except Held:
            yield ROLLBACK
            raise
        except Exception as error:  # noqa: BLE001 - a handler may raise anything; whose fault it is decides what follows
            failure = error
            connected = yield IS_CONNECTED
            yield ROLLBACK
        else:
            COMMIT_ACK.hit()
            settle(outcomes)
            return
        if isinstance(failure, TransactionEnded):
            # What the handler committed includes inbox rows of messages whose handlers never ran.
            self._to_take_back.update(taken)
            yield from self._take_back()
        if len(ready) > 1 and connected:
            for prepared in ready:
                yield from self._again(prepared, settle)
                if time.monotonic() > self._until:
                    return
            return
        self._raise_if_held(failure, ready, connected=connected)
        yield from self._failed(ready[0], failure, settle)

    def _again(self, prepared: Prepared, settle: Report) -> Steps[None]:
        """One message of a batch that failed, in a transaction of its own."""
        try:
            fresh = self._preparation.anew(prepared)
        except InvalidMessage as error:
            # It could be decoded a moment ago, by a callable that is not a function of its data alone.
            settle([self._preparation.refuse(prepared.delivery, error, prepared.key)])
            return
        yield from self._together([fresh], settle)

    def _transaction(self, ready: list[Prepared], taken: list[str]) -> Steps[list[Outcome]]:
        """Inbox rows, then the effects of the new ones. ``taken`` collects the ids it inserted."""
        firsts: dict[str, Prepared] = {}
        outcomes: list[Outcome] = []
        for prepared in ready:
            first = firsts.setdefault(prepared.key, prepared)
            if first is not prepared and first.hash != prepared.hash:
                outcomes.append(self._preparation.collision(prepared))
        consumer = self.rules.consumer
        keys = list(firsts)
        hashes = "{" + ",".join(['"\\\\x' + p.hash.hex() + '"' for p in firsts.values()]) + "}"
        parameters = (self._idle_milliseconds, consumer, _array(keys), hashes)
        inserted = yield from self._own(Execute(inbox_queries.INSERT, parameters, full=len(keys)))
        new = firsts if inserted is None else {row[0]: firsts[row[0]] for row in inserted}
        taken += new
        known = [key for key in keys if key not in new]
        if known:
            outcomes += yield from self._known(firsts, known)
        unrun = yield from self._effects([firsts[key] for key in keys if key in new])
        if unrun:
            yield from self._own(Execute(inbox_queries.TAKE_BACK, (consumer, _array(unrun))))
        late = set(unrun)
        decided = {id(outcome.delivery) for outcome in outcomes}
        for prepared in ready:
            if id(prepared.delivery) not in decided and prepared.key not in late:
                is_first = firsts[prepared.key] is prepared
                outcomes.append(fact_of(prepared, Result.DONE if is_first else Result.DUPLICATE))
        ended = [p.key for p in ready if p.recorded and p.key not in late]
        if ended:
            yield from self._own(Execute(inbox_queries.CLEAR, (consumer, _array(ended))))
        return outcomes

    def _known(self, firsts: dict[str, Prepared], keys: list[str]) -> Steps[list[Outcome]]:
        """Messages whose effect is committed already: duplicates, or others that bear the same id."""
        rows = yield from self._own(Execute(inbox_queries.LOOK_UP, (self.rules.consumer, _array(keys))))
        return [self._preparation.compare(firsts[key], known_hash) for key, known_hash in rows]

    def _effects(self, new: list[Prepared]) -> Steps[list[str]]:
        """Call the handlers; returns the ids left to the next transaction because this one took too long."""
        single = [p for p in new if not p.handler.batch]
        unrun: list[str] = []
        if single:
            ran = yield CallEach([(p.handler.function, p.event) for p in single], self._until)
            unrun += [p.key for p in single[ran:]]
        if len(single) < len(new):
            sets: dict[str, list[Prepared]] = {}
            for prepared in new:
                if prepared.handler.batch:
                    sets.setdefault(prepared.handler.type, []).append(prepared)
            for members in sets.values():
                yield CallMany(members[0].handler.function, [p.event for p in members])
        return unrun

    def _redelivered(self, ready: list[Prepared], settle: Report) -> Steps[None]:
        """Each alone, on record before it runs: whoever had it before may have died of it."""
        if not ready:
            return
        by_key = {p.key: p for p in ready}
        query = Once(inbox_queries.LOOK_UP, (self.rules.consumer, _array(list(by_key))))
        known = dict((yield from self._own(query)))
        settled = [self._preparation.compare(p, known[p.key]) for p in ready if p.key in known]
        if settled:
            yield from self.clear(o.message_id for o in settled if o.message_id and o.result is Result.DUPLICATE)
            settle(settled)
        for prepared in ready:
            if prepared.key in known:
                continue
            if (yield from self._record_started(prepared, settle)):
                prepared.recorded = True
                yield from self._together([prepared], settle)
            if time.monotonic() > self._until:
                return

    def _record_started(self, prepared: Prepared, settle: Report) -> Steps[bool]:
        """Whether to run it. Committed before the run, so that a crash leaves its mark."""
        key, consumer = prepared.key, self.rules.consumer
        if key in self._started:
            return True
        rows = yield from self._own(Once(inbox_queries.RECORD_STARTED, (consumer, key, consumer, key)))
        if not rows:
            return True  # done by another consumer meanwhile; the insert finds out, and compares the payload
        [(started, failed, first_failed_at)] = rows
        crashes = started - 1
        if crashes < self.rules.max_crashes:
            self._started.add(key)
            return True
        now = self.clock.now()
        letter = self._preparation.letter(
            prepared.delivery,
            reason=Reason.CRASHED,
            error=f"{crashes} runs began and were never seen to end: it crashes or hangs its consumer",
            failed=max(failed, failed_of(prepared.delivery.headers)),
            first_failed_at=first_failed_at or now,
            last_failed_at=now,
        )
        settle([Outcome(prepared.delivery, Result.DEAD_LETTERED, key, letter)])
        return False

    def _failed(self, prepared: Prepared, error: Exception, settle: Report) -> Steps[None]:
        """Its own failure: on record, then to the delay tier or the dead letters. A duplicate is just acked."""
        key, consumer, delivery = prepared.key, self.rules.consumer, prepared.delivery
        failed = failed_of(delivery.headers) + 1
        text = text_of(error)
        parameters = (consumer, key, failed, text, consumer, key)
        rows = yield from self._own(Once(inbox_queries.RECORD_FAILED, parameters))
        if not rows:
            settle([fact_of(prepared, Result.DUPLICATE)])
            return
        [(first_failed_at, last_failed_at)] = rows
        tier = self.rules.retry.tier(self.rules.queue, failed)
        reason = permanent_reason(error) or ("" if tier else Reason.EXHAUSTED)
        letter = self._preparation.letter(
            delivery,
            reason=reason,
            error=text,
            failed=failed,
            first_failed_at=first_failed_at,
            last_failed_at=last_failed_at,
        )
        if reason or tier is None:
            settle([Outcome(delivery, Result.DEAD_LETTERED, key, letter, error=error)])
        else:
            settle([Outcome(delivery, Result.RETRIED, key, letter, tier, error)])

    def _raise_if_held(self, error: Exception, ready: list[Prepared], *, connected: bool) -> None:
        fault = fault_of(error, connected=connected)
        if fault is Fault.ENVIRONMENT:
            raise Held(error, transient=False)
        if fault is Fault.TRANSIENT:
            # Nobody's fault, unless it is the same message's every time: then it would hold up the others for ever.
            count = self._transient.get(ready[0].key, 0) + 1
            self._transient[ready[0].key] = count
            if count < self.rules.transient_limit:
                raise Held(error, transient=True)

    def _own(self, step: Execute | Once) -> Steps[Any]:
        """A statement of ours: when it fails, no message is to blame, whatever the error."""
        try:
            result = yield step
        except (psycopg.Error, OuthaulError) as error:
            raise Held(error, transient=fault_of(error, connected=True) is Fault.TRANSIENT) from error
        return result


def _array(keys: Sequence[str]) -> str:
    """A uuid[] literal: a third of the cost of letting the driver adapt a list, and these hold hex and dashes only."""
    return "{" + ",".join(keys) + "}"
