"""`python -m outhaul_local`: up, demo, down, doctor. The Makefile's targets of these names call it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from outhaul.errors import ConfigurationError, OuthaulError
from outhaul_local.failure import LocalFailure
from outhaul_local.home import Home
from outhaul_local.interrupts import Interrupted
from outhaul_local.processes import tail

WIDE = 110
EXIT_FINE, EXIT_FINDING, EXIT_USAGE, EXIT_UNREACHABLE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


class _Console(Console):
    """A console whose reader may go: ``make up | head`` must not stop half-way what it brings up."""

    def on_broken_pipe(self) -> None:
        """Write no more, and go on."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="outhaul-local", description=__doc__)
    root.add_argument("--home", help="folder for data, logs and state (default: OUTHAUL_HOME, else ./.outhaul)")
    commands = root.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start everything in the background and place 20 orders")
    up.add_argument("--orders", type=int, default=20, help="how many first orders to place (default 20)")
    up.add_argument("--allow-remote", action="store_true", help="accept exported servers on other machines")
    down = commands.add_parser("down", help="stop everything; the data stays")
    down.add_argument("--delete-data", action="store_true", help="remove the data too")
    commands.add_parser("doctor", help="check what all this needs")
    demo = commands.add_parser("demo", help="send a stream of orders and account for every one")
    demo.add_argument("-n", "--number", default=None, help="how many orders (default 10000)")
    demo.add_argument("--rate", default=None, help="orders per second (default: as many as go)")
    demo.add_argument("--file", default=None, help="orders as JSON Lines; - reads standard input")
    demo.add_argument("--kill", action="store_true", help="kill the functions at random meanwhile")
    demo.add_argument("--seed", type=int, default=None, help="seed of the random orders and kills")
    orders = commands.add_parser("orders", help="place 20 orders anywhere and show their waybills")
    orders.add_argument("--order-url", required=True, help="base URL of the order function")
    orders.add_argument("--waybill-url", required=True, help="base URL of the waybill function")
    orders.add_argument("--orders", type=int, default=20, help="how many (default 20)")
    commands.add_parser("install", help="get RabbitMQ by apt if it is missing and we are root")
    commands.add_parser("supervise", help=argparse.SUPPRESS)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    options = parser().parse_args(arguments)
    # Where there is no terminal to ask, lines are as long as our tables are wide.
    console = _Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
    home = Home.choose(options.home)
    try:
        return _COMMANDS[options.command](options, home, console)
    except (LocalFailure, OuthaulError) as failure:
        _tell(console, failure)
        return EXIT_USAGE if isinstance(failure, ConfigurationError) else EXIT_UNREACHABLE
    except Interrupted:
        console.print("\nInterrupted; nothing that this command started is left running.")
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        console.print("\nInterrupted.")
        return EXIT_INTERRUPTED


def _tell(console: Console, failure: LocalFailure | OuthaulError) -> None:
    console.print(f"\n[red bold]Failed:[/] {_plain(str(failure))}")
    if isinstance(failure, LocalFailure):
        if failure.remedy:
            console.print(f"[bold]Way out:[/] {_plain(failure.remedy)}")
        last = tail(failure.log) if failure.log is not None else ""
        if last:
            console.print(f"[dim]The end of {failure.log}:[/]")
            console.print(_plain(last))


def _plain(text: str) -> str:
    # A log line in square brackets is text, not markup.
    return text.replace("[", r"\[")


def _up(options: argparse.Namespace, home: Home, console: Console) -> int:
    from outhaul_local.up import up  # noqa: PLC0415 - the supervisor need not load all this

    up(home, console, orders=options.orders, allow_remote=options.allow_remote)
    return EXIT_FINE


def _down(options: argparse.Namespace, home: Home, console: Console) -> int:
    from outhaul_local.down import down  # noqa: PLC0415 - as above

    down(home, console, delete_data=options.delete_data)
    return EXIT_FINE


def _doctor(_options: argparse.Namespace, home: Home, console: Console) -> int:
    from outhaul_local.doctor import doctor  # noqa: PLC0415 - as above

    return EXIT_FINE if doctor(home, console) else EXIT_FINDING


def _demo(options: argparse.Namespace, home: Home, console: Console) -> int:
    from outhaul_local.demo import DemoOptions, demo  # noqa: PLC0415 - as above

    wanted = DemoOptions.checked(
        number=options.number, rate=options.rate, file=options.file, kill=options.kill, seed=options.seed
    )
    return EXIT_FINE if demo(home, console, wanted) else EXIT_FINDING


def _orders(options: argparse.Namespace, _home: Home, console: Console) -> int:
    from outhaul_local.first_orders import place_first_orders  # noqa: PLC0415 - as above

    place_first_orders(options.order_url, options.waybill_url, console, options.orders)
    return EXIT_FINE


def _install(_options: argparse.Namespace, home: Home, console: Console) -> int:
    from outhaul_local.broker_choice import choose_broker  # noqa: PLC0415 - as above

    home.make()
    kind, binary = choose_broker(home.log("install"), console.print)
    console.print(f"RabbitMQ: {binary}" if binary else "RabbitMQ: in Docker")
    return EXIT_FINE if kind == "native" else EXIT_FINDING


def _supervise(_options: argparse.Namespace, home: Home, _console: Console) -> int:
    from outhaul_local.supervise import supervise  # noqa: PLC0415 - as above

    supervise(home)
    return EXIT_FINE


_COMMANDS: dict[str, Callable[[argparse.Namespace, Home, Console], int]] = {
    "up": _up,
    "down": _down,
    "doctor": _doctor,
    "demo": _demo,
    "orders": _orders,
    "install": _install,
    "supervise": _supervise,
}
