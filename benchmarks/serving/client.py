"""A load client that costs little: prepared requests on kept connections, one thread, answers read later.

It shares the cores with the servers, so its own processor time is measured with every run."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_END, _LENGTH = b"\r\n\r\n", b"content-length:"
_STALLED_SECONDS = 60.0


@dataclass(frozen=True)
class Target:
    """Where a server takes predictions. ``process`` is the id of the one that was started for it."""

    port: int
    path: str
    headers: tuple[str, ...] = ()
    process: int = 0

    def request(self, body: bytes, content_type: str) -> bytes:
        """The bytes of a whole HTTP request."""
        lines = [f"POST {self.path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *self.headers]
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}", "", ""]
        return "\r\n".join(lines).encode() + body


@dataclass(frozen=True)
class Load:
    """What one run saw: an answer for each request, whose ``status`` is 0 if none came; seconds from
    (intended) send to answer; when each was sent and answered (``time.perf_counter``)."""

    status: npt.NDArray[np.int64]
    bodies: list[bytes]
    sent: npt.NDArray[np.float64]
    answered: npt.NDArray[np.float64]
    client_cpu: float

    @property
    def latency(self) -> npt.NDArray[np.float64]:
        return self.answered - self.sent

    @property
    def seconds(self) -> float:
        return float(self.answered.max() - self.sent.min())

    @property
    def rate(self) -> float:
        return len(self.bodies) / self.seconds


class _Connection:
    """One kept connection, and which request it carries."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.index = -1

    def send(self, index: int, request: bytes) -> None:
        self.index = index
        self.socket.sendall(request)

    def answer(self) -> tuple[int, bytes] | None:
        """Read what is there; status and body once they are complete."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError(f"closed by the server, which had sent {self.received[:200]!r}")
        self.received = received = self.received + data if self.received else data
        end = received.find(_END)
        if end < 0:
            return None
        head = received[:end].lower()
        start = head.find(_LENGTH) + len(_LENGTH)
        if start < len(_LENGTH):
            raise ConnectionError(f"an answer without its length: {head!r}")
        stop = head.find(b"\r", start)
        length = int(head[start : stop if stop > 0 else end])
        if len(received) < end + len(_END) + length:
            return None
        self.received = b""
        return int(head[9:12]), received[end + len(_END) :]


def load(
    port: int,
    requests: Sequence[bytes],
    connections: int,
    *,
    due: Sequence[float] | None = None,
    stop: Callable[[], bool] | None = None,
    patience: float = _STALLED_SECONDS,
) -> Load:
    """Send every request once; with ``stop``, over and over until it returns True. Closed loop: each
    connection sends its next one when it has its answer. With ``due``, seconds from the start in ascending
    order, open loop: a request is sent when it is due on any idle connection, and its latency counts from
    when it was due. ``TimeoutError`` where nothing comes for ``patience`` seconds."""
    count = len(requests) if due is None else len(due)
    size = 0 if stop else count
    found = _Answers([0] * size, [b""] * size, [0.0] * size, [0.0] * size)
    idle = [_Connection(port) for _ in range(connections)]
    known = {c.socket.fileno(): c for c in idle}
    poll = select.epoll()
    for number in known:
        poll.register(number, select.EPOLLIN)
    done, following, ended, clock = 0, 0, False, time.perf_counter
    cpu, start = time.thread_time(), clock()
    while not ended or len(idle) < connections:
        now = clock() - start
        ended = ended or (stop() if stop else following == count)
        while idle and not ended and (due is None or due[following] <= now):
            found.begin(following, now if due is None else due[following], bool(stop))
            idle.pop().send(following, requests[following % len(requests)])
            following += 1
            ended = stop is None and following == count
        if ended and len(idle) == connections:
            break
        wait = patience
        if due is not None and not ended:
            wait = max(0.0, due[following] - (clock() - start)) if idle else 0.01
        events = poll.poll(wait)
        if not events and wait == patience:
            raise TimeoutError(f"no answer for {wait:.0f} s to {following - done} of {following} requests")
        for number, _ in events:
            connection = known[number]
            answer = connection.answer()
            if answer is not None:
                i = connection.index
                found.answered[i] = clock() - start
                found.status[i], found.bodies[i] = answer
                done += 1
                idle.append(connection)
    cpu = time.thread_time() - cpu
    poll.close()
    for connection in known.values():
        connection.socket.close()
    times = np.array(found.sent) + start, np.array(found.answered) + start
    return Load(np.array(found.status), found.bodies, *times, cpu)


@dataclass(frozen=True)
class _Answers:
    status: list[int]
    bodies: list[bytes]
    sent: list[float]
    answered: list[float]

    def begin(self, index: int, now: float, grow: bool) -> None:
        if grow:
            self.status.append(0)
            self.bodies.append(b"")
            self.sent.append(0.0)
            self.answered.append(0.0)
        self.sent[index] = now
