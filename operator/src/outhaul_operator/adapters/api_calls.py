"""One request to the API server: bounded in time, its failure told apart once.

::

    ApiUnavailable      no answer, 429 or 5xx: nothing was decided, the whole look is tried again with backoff
    ApiRefused          the API server has decided: 403, 404, 409, 422 and the like, by its ``code``
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import httpx2
import msgspec
from lightkube.core.exceptions import ApiError

from outhaul.errors import OuthaulError, Unreachable
from outhaul_operator.metrics import OperatorMetrics

T = TypeVar("T")
_MESSAGE_CHARACTERS = 500


class ApiUnavailable(Unreachable):
    """The API server does not answer, or says that it cannot now. A change may or may not have been made."""

    part = "API server"


class ApiRefused(OuthaulError):
    """The API server refused a request. ``code`` is its HTTP status, ``reason`` Kubernetes' word for it."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message


class ApiCalls:
    """Sends requests to the API server at ``address``, none of them for longer than ``timeout_seconds``."""

    def __init__(self, address: str, timeout_seconds: float, metrics: OperatorMetrics) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._metrics = metrics

    async def ask(self, request: Awaitable[T]) -> T:
        """The request's answer. Raises ApiUnavailable or ApiRefused."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await request
        except TimeoutError as error:
            raise self._unavailable("Timeout", f"no answer within {self._timeout_seconds:g} s") from error
        except httpx2.HTTPStatusError as error:
            raise self._refused(error) from error
        except httpx2.HTTPError as error:
            raise self._unavailable(type(error).__name__, str(error) or type(error).__name__) from error
        except (msgspec.MsgspecError, ValueError, KeyError) as error:
            # Something else answers at its address: a proxy's page, half a body, a head without a content type.
            raise self._unavailable("NoApiServer", f"what answers there is no API server: {error!r}") from error

    def _unavailable(self, code: str, why: str) -> ApiUnavailable:
        self._metrics.api_errors.inc(code=code)
        return ApiUnavailable(self._address, why)

    def _refused(self, error: httpx2.HTTPStatusError) -> ApiUnavailable | ApiRefused:
        code = error.response.status_code
        # What stands before an API server answers in words of its own, which tell nobody anything.
        reason, message = error.response.reason_phrase, "without a word"
        if isinstance(error, ApiError):
            reason, message = error.status.reason or "", error.status.message or ""
            code = error.status.code or code
        message = message[:_MESSAGE_CHARACTERS]
        if code == 429 or code >= 500:
            return self._unavailable(str(code), f"{code} {reason}: {message}")
        self._metrics.api_errors.inc(code=str(code))
        return ApiRefused(code, reason, message)
