"""From the environment to an exit code: 0 for an orderly end, 1 for a failure, 2 for a setting that cannot be used."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Protocol, TypeVar

from outhaul.errors import ConfigurationError, OuthaulError
from outhaul.logs import configure_logging


class ProcessConfig(Protocol):
    """What every process is told."""

    @property
    def log_level(self) -> str:
        """Least severe event logged."""

    @property
    def log_format(self) -> str:
        """``json`` or ``text``."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences to log at start."""


Config = TypeVar("Config", bound=ProcessConfig)


def run(
    name: str,
    read: Callable[[Mapping[str, str]], Config],
    serve: Callable[[Config], Coroutine[None, None, None]],
    *,
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Read the settings, serve until told to stop, and return the exit code."""
    try:
        config = read(os.environ)
        configure_logging(config.log_level, config.log_format)
        for sentence in config.warnings:
            logging.getLogger("outhaul.settings").warning(sentence)
        # What is loaded now stays. Walking through it costs 7 to 13 ms a time, in which no order is answered.
        gc.freeze()
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(serve(config))
    except ConfigurationError as error:
        # One line, whatever the log format is: this is for the person who just started it.
        sys.stderr.write(f"{name}: {error}\n")
        return 2
    except OuthaulError as error:
        logging.getLogger("outhaul").critical("ended: %s", error)
        return 1
    return 0
