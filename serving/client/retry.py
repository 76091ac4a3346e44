"""When a prediction is tried again, and when not.

A prediction changes nothing, so it may be run twice. Only what another try can fix is tried again:
a connection that was refused or broke, a worker that died, a request that was lost, a queue that is full, a
key that a server that has just restarted is about to write down. A request that is wrong stays wrong.

A worker is back within two seconds, on a busy machine within five; meanwhile what is sent waits in
the server's queue. The pauses grow so fast that three retries bridge the two seconds, should they be refused.
"""

from __future__ import annotations

from typing import Any

from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception, wait_exponential_jitter

from eideticnet.client.call import Call
from eideticnet.client.wire import worker_died
from eideticnet.serving.errors import NoAnswerError, RequestError, ServingError, WrongKeyError
from eideticnet.serving.key import Key

_FIRST_WAIT, _LONGEST_WAIT, _GROWTH = 0.1, 3.0, 4  # seconds, and how many times as long the next one is
_BUSY = (429, 502, 503, 504, 507)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well be answered if it is sent again."""
    if isinstance(error, RequestError):
        return error.status in _BUSY or (error.status >= 500 and worker_died(error.message))
    return isinstance(error, NoAnswerError)


def _policy(call: Call, key: Key, retries: int) -> dict[str, Any]:
    failed: list[Any] = []

    def worth_it(error: BaseException) -> bool:
        return key.may_change if isinstance(error, WrongKeyError) else is_transient(error)

    def stop(state: RetryCallState) -> bool:
        assert state.outcome is not None
        if isinstance(state.outcome.exception(), WrongKeyError) and key.changed(call.authorization):
            return False  # which is no fault, and counts as none
        failed[:] = [state.outcome.exception()]
        return state.attempt_number > retries or state.upcoming_sleep >= call.time.left()

    def wait(state: RetryCallState) -> float:
        return min(pause(state), max(call.time.left() / 2, _FIRST_WAIT))

    def begin(state: RetryCallState) -> None:
        if failed and call.time.left() <= 0:  # it slept too long: what went wrong says more than that
            raise failed[-1]
        call.begin(last=state.attempt_number > retries)

    pause = wait_exponential_jitter(
        max=_LONGEST_WAIT, exp_base=_GROWTH, jitter=_FIRST_WAIT, multiplier=_FIRST_WAIT
    )
    retry = retry_if_exception(worth_it)
    return {"retry": retry, "stop": stop, "wait": wait, "before": begin, "reraise": True}


def checked(retries: Any) -> int:
    """How often a client may try again."""
    if type(retries) is not int or retries < 0:
        raise ServingError(f"retries is {retries!r}; expected a whole number from 0")
    return retries


def retrying(call: Call, key: Key, retries: int) -> Retrying:
    """At most ``retries`` more tries with growing pauses, none after the call's time is up."""
    return Retrying(**_policy(call, key, retries))


def async_retrying(call: Call, key: Key, retries: int) -> AsyncRetrying:
    """The same, for a coroutine."""
    return AsyncRetrying(**_policy(call, key, retries))
