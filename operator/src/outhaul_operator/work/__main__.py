"""``python -P -m outhaul_operator.work resend|redrive``: do what the environment says, leave a report, exit."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping

from outhaul.configuration.environment import Environment
from outhaul.logs import FORMATS, LEVELS, configure_logging
from outhaul_operator import outcomes, requests
from outhaul_operator.work.ending import DEFECT, Ending, of_error, write
from outhaul_operator.work.parts import Parts, parts_of
from outhaul_operator.work.stopping import Stopping

_log = logging.getLogger("outhaul.work")


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Run one command; returns the exit code. See `outhaul_operator.outcomes`."""
    stopping = Stopping()
    # Before anything else: as a container's first process this one would otherwise ignore the signal.
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, lambda *_: stopping.set())
    try:
        ending = _run(arguments, environ, stopping)
    except Exception as error:  # noqa: BLE001 - whatever it was, the pod must say so in its termination message
        ending = of_error(error)
        if ending.code == DEFECT:
            _log.exception("the run failed for a defect of its own")
    report = ending.report
    said = {"run_id": environ.get(requests.RUN_ID_VARIABLE, ""), "reason": report.reason, **report.counts}
    _log.log(logging.INFO if ending.code == outcomes.DONE else logging.ERROR, report.message or "done", extra=said)
    write(report, Environment(environ).text("OUTHAUL_TERMINATION_LOG"))
    return ending.code


def _run(arguments: list[str], environ: Mapping[str, str], stopping: Stopping) -> Ending:
    env = Environment(environ)
    configure_logging(
        env.text("OUTHAUL_LOG_LEVEL", "info", choices=LEVELS), env.text("OUTHAUL_LOG_FORMAT", "json", choices=FORMATS)
    )
    if len(arguments) != 1 or arguments[0] not in _COMMANDS:
        report = outcomes.RunReport(reason="Usage", message="say one of: resend, redrive")
        return Ending(outcomes.USAGE, report)
    command = arguments[0]
    return _COMMANDS[command](parts_of(command, env, environ), stopping)


def _resend(parts: Parts, stopping: Stopping) -> Ending:
    from outhaul_operator.work.resend import run  # noqa: PLC0415 - the signal is handled before the drivers load

    return run(parts, stopping)


def _redrive(parts: Parts, stopping: Stopping) -> Ending:
    from outhaul_operator.work.redrive import run  # noqa: PLC0415 - as above

    return run(parts, stopping)


_COMMANDS: dict[str, Callable[[Parts, Stopping], Ending]] = {
    requests.ResendRun.command: _resend,
    requests.RedriveRun.command: _redrive,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
