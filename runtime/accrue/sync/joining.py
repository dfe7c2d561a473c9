"""A device asks to be let in: over the broker, with a code."""

from __future__ import annotations

import time
from collections.abc import Callable

from accrue.errors import AccrueError, LinkError, NotFound, Rejected
from accrue.sync.broker import ENROL_PASSWORD, ENROL_USER
from accrue.sync.endpoint import Endpoint
from accrue.sync.enrol import Admission, make_request, open_reply
from accrue.sync.identity import Identity
from accrue.sync.link import Limits, Link, Loop, Message, Received, Sent
from accrue.sync.topics import BY_NAME, Topics

AGAIN_S = 3.0  # the request is not retained: an owner who comes later hears the next one
CONNECT_S = 15.0


class _Asking:
    """Listens for the answer."""

    def __init__(self, topics: Topics, device: str) -> None:
        self.request = topics.path("enrol-request", device=device)
        self.reply = topics.path("enrol-reply", device=device)
        self.replies: list[bytes] = []
        self.subscribed = False
        self.failed: Sent | None = None
        self.link: Link | None = None

    def on_up(self, limits: Limits) -> None:
        assert self.link is not None
        self.subscribed = False
        self.link.subscribe([self.reply], self._granted)

    def _granted(self, granted: bool) -> None:
        self.subscribed = granted
        if not granted:
            self.failed = Sent.DENIED

    def on_down(self, error: AccrueError) -> None:
        self.subscribed = False

    def on_message(self, message: Received) -> None:
        if message.topic == self.reply:
            self.replies.append(message.payload)

    def sent(self, outcome: Sent) -> None:
        if outcome not in (Sent.DONE, Sent.LOST):
            self.failed = outcome


def ask(
    identity: Identity,
    fleet: str,
    code: str,
    name: str,
    endpoint: Endpoint,
    *,
    seconds: float,
    waiting: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> Admission:
    """What the owner answers.

    The certificate of the broker need not be known yet: the answer proves that it comes from who
    made the code, and has the broker's CA in it.

    Args:
        endpoint: the broker, `user` and `password` left out.
        waiting: called each time that the request has gone out.

    Raises:
        LinkError: the broker was not reached, or does not take requests.
        NotFound: nobody answered in that time. Rejected: somebody who does not know the code did.
    """
    request, keys = make_request(identity, fleet, code, name)
    listener = _Asking(Topics(fleet), identity.device)
    joining = Endpoint(
        endpoint.host,
        endpoint.port,
        endpoint.user or ENROL_USER,
        endpoint.password or ENROL_PASSWORD,
        endpoint.ca,
        endpoint.tls,
        verify=endpoint.ca is not None,
    )
    link = Link(joining, identity.device, listener)
    listener.link = link
    loop = Loop()
    loop.add(link)
    began, due = clock(), 0.0
    forged: Rejected | None = None
    try:
        link.open()
        while True:
            loop.step(0.2)
            now = clock()
            for reply in listener.replies:
                try:
                    return open_reply(identity, request, keys, reply)
                except Rejected as error:  # of who does not know the code: the owner may still come
                    forged = error
            listener.replies.clear()
            if not link.is_up and link.error is not None and link.connections == 0:
                raise link.error
            if listener.failed is not None:
                raise LinkError(
                    f"the broker {endpoint} takes no requests to join fleet {fleet}",
                    hint="is it the broker of this fleet? its owner writes it: accrue-fleet broker",
                )
            if now - began > seconds:
                raise forged or NotFound(
                    f"the owner of fleet {fleet} did not answer within {seconds:g} s",
                    hint="there: accrue-fleet roster accept; and was the code typed right, "
                    "and in time?",
                )
            if listener.subscribed and now >= due:
                due = now + AGAIN_S
                link.send(
                    Message(listener.request, request, BY_NAME["enrol-request"]), listener.sent
                )
                waiting()
    finally:
        loop.close()
