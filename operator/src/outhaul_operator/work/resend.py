"""Send rows of an outbox, once, as a Job: the sender's own engine, bounded, on record under the Job's name."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import cast

from outhaul.amqp.broker import close_connection, open_connection
from outhaul.errors import BrokerUnreachable
from outhaul.resend import ResendProgress, ResendRequest, ResendResult, resend_once
from outhaul.sending.sender_settings import SenderSettings
from outhaul.settings import BrokerSettings
from outhaul_operator import outcomes
from outhaul_operator.outcomes import RunReport
from outhaul_operator.requests import ResendRun
from outhaul_operator.work.ending import Ending, of_error
from outhaul_operator.work.parts import Parts
from outhaul_operator.work.stopping import Stopping

_CLOSE_SECONDS = 2.0
_ROUTES_TOLD = 10


def run(parts: Parts, stopping: Stopping) -> Ending:
    """Do it. Never raises for what database or broker may do."""
    return asyncio.run(_run(parts, stopping))


async def _run(parts: Parts, stopping: Stopping) -> Ending:
    wanted = cast("ResendRun", parts.request)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    stopping.on_set(lambda: loop.call_soon_threadsafe(stop.set))
    progress = ResendProgress()

    def keep(now: ResendProgress) -> None:
        nonlocal progress
        progress = now

    try:
        await _refuse_early(parts.broker)
        result = await resend_once(
            ResendRequest(
                message_ids=wanted.message_ids,
                created_between=wanted.created_between,
                parked=wanted.parked,
                limit=wanted.limit,
            ),
            dsn=parts.database,
            amqp_url=parts.broker,
            run_id=parts.run_id,
            actor=parts.actor,
            settings=SenderSettings(max_attempts=wanted.max_attempts),
            on_progress=keep,
            stop=stop,
        )
    except Exception as error:  # noqa: BLE001 - sorted by kind there; what was done until then is told beside it
        ending = of_error(error, parts.database.address)
        return Ending(ending.code, replace(ending.report, counts=progress.document()))
    finally:
        stopping.on_set(lambda: None)
    return ending_of(result, stopped=stop.is_set())


async def _refuse_early(broker: BrokerSettings) -> None:
    """A refused login is told at once; the engine would wait as it does for a broker that is away."""
    try:
        connection = await open_connection(broker, name="outhaul resend: login", on_closed=lambda _: None)
    except BrokerUnreachable as error:
        if error.refused:
            raise
        return  # an outage, which the run has patience for
    with contextlib.suppress(BrokerUnreachable):
        await close_connection(connection, timeout_seconds=_CLOSE_SECONDS)


def ending_of(result: ResendResult, *, stopped: bool) -> Ending:
    """What a run's end means."""
    progress = result.progress
    if result.done_before:
        reason, code = ("NotTaken", outcomes.NOT_TAKEN) if result.detail else ("", outcomes.DONE)
        report = RunReport(reason=reason, message=result.detail, done_before=True)
    elif result.outage:
        code = outcomes.OUTAGE
        report = RunReport(reason="Stopped" if stopped else "Outage", message=result.outage)
    elif result.routes:
        told = [
            f"exchange {each.exchange!r} by {each.routing_key!r}: {each.reason}"
            for each in result.routes[:_ROUTES_TOLD]
        ]
        if len(result.routes) > _ROUTES_TOLD:
            told.append(f"and {len(result.routes) - _ROUTES_TOLD} more routes")
        remedy = "`outhaul topology diff` tells what is missing"
        code = outcomes.NOT_TAKEN
        report = RunReport(reason="NotRoutable", message=f"{'; '.join(told)}; {remedy}")
    elif progress.refused:
        code = outcomes.NOT_TAKEN
        parked = f", {progress.parked} of them are parked now" if progress.parked else ""
        message = f"the broker refused messages {progress.refused} times for themselves{parked}; see their last_error"
        report = RunReport(reason="MessagesRefused", message=message)
    else:
        code, report = outcomes.DONE, RunReport()
    return Ending(code, replace(report, counts=progress.document()))
