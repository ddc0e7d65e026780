"""A server process: attach, listen, and on SIGTERM answer or tell everybody before it ends."""

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from interp.checkpoint import Checkpoint
from interp.errors import InputError
from steering.runtime.plan import Policies
from steering.runtime.runtime import apply
from steering.serve.batcher import Batcher
from steering.serve.requests import Limits

if TYPE_CHECKING:
    from steering.serve.access import Access

_log = logging.getLogger("mechguard")


def require_extra() -> None:
    """Check that what the server needs is installed.

    Raises:
        InputError: saying how to install it.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"the server needs {error.name}, which is not installed here; pip install "
            "'mechguard[serve]'."
        ) from error


@dataclass(frozen=True)
class Timeouts:
    """How long the server waits for its clients, in seconds.

    Attributes:
        read: until the head of a request must be there, and again until its body.
        send: that what was sent may wait for a client which does not read it.
        keep_alive: that a connection may be idle between two requests.
    """

    read: float = 30.0
    send: float = 60.0
    keep_alive: float = 5.0

    def __post_init__(self) -> None:
        if not all(seconds > 0 for seconds in (self.read, self.send, self.keep_alive)):
            raise InputError("a server waits for its clients for more than 0 seconds.")


def serve(
    checkpoint: Checkpoint,
    policy: Policies,
    *,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_batch: int = 16,
    max_queue: int = 64,
    limits: Limits | None = None,
    grace: float = 30.0,
    timeouts: Timeouts | None = None,
    allowed_hosts: Collection[str] = (),
    allowed_origins: Collection[str] = (),
    keys: Sequence[str] = (),
    ready: Callable[[Any], None] | None = None,
    allow: Collection[str] = (),
) -> None:
    """Answer requests until SIGTERM or SIGINT.

    Then nothing new is taken, and what waits or runs is answered; whatever is not after `grace`
    seconds is told so with status 503, or an error event where it streams.

    Args:
        checkpoint: with a chat template.
        policy: as for `steering.attach`.
        name: of the model, as clients call it; the checkpoint's by default.
        host: to listen on; anyone who reaches another than the loopback is answered.
        port: the same; 0 takes a free one.
        max_batch: requests in a batch.
        max_queue: requests that may wait.
        limits: of one request.
        grace: seconds that answers under way get on shutdown.
        timeouts: of clients that send or read too slowly.
        allowed_hosts: names that the server answers to, beside the loopback's and `host`.
        allowed_origins: sites whose pages may use the server.
        keys: of which a request must bring one; none asks for none.
        ready: called with the uvicorn server once it listens.
        allow: as for `steering.attach`.

    Raises:
        InputError: the extra is not installed, the checkpoint has no chat template, the policy does
            not fit it, a name or an origin is none, or the address is taken.
    """
    require_extra()
    from steering.serve.access import LOOPBACK, Access

    _require_chat(checkpoint)
    access = Access.of(host, allowed_hosts, allowed_origins, keys)
    if host not in LOOPBACK and not keys:
        _log.warning(
            "listening on %s: whoever reaches this address is answered, unasked; --api-key-file "
            "asks for a key.",
            host,
        )
    with apply(checkpoint, policy, allow=allow) as attachment:
        batcher = Batcher(attachment, max_batch=max_batch, max_queue=max_queue)
        clients = _Clients(limits or Limits(), timeouts or Timeouts(), access)
        server = _server(batcher, name or checkpoint.name, clients, host, port, grace)
        server.on_ready = ready
        _run(server, host, port)
        _log.info("answered %d requests in %d batches", batcher.answered, batcher.batches)


@dataclass(frozen=True)
class _Clients:
    """What clients may do."""

    limits: Limits
    timeouts: Timeouts
    access: "Access"


def _require_chat(checkpoint: Checkpoint) -> None:
    if getattr(checkpoint.tokenizer, "chat_template", None) is None:
        raise InputError(
            f"{checkpoint.name} has no chat template, so it cannot be served as a chat model; name "
            "one with --chat-template."
        )


def _server(
    batcher: Batcher, name: str, clients: _Clients, host: str, port: int, grace: float
) -> Any:
    import uvicorn

    from steering.serve.app import make_app
    from steering.serve.connections import patient

    class Server(uvicorn.Server):
        """Drains the batcher when it is told to stop, and listens until that is done."""

        on_ready: Callable[[Any], None] | None = None

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started and self.on_ready is not None:
                self.on_ready(self)

        def stop(self) -> None:
            """End as after SIGTERM."""
            batcher.drain()
            threading.Thread(target=self._wind_down, daemon=True).start()

        def _wind_down(self) -> None:
            batcher.wait(grace)
            batcher.abort()
            self.should_exit = True

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # In a thread of its own: the signal may come while the batcher's lock is held.
            if self._told_before:
                self.should_exit = self.force_exit = True
                threading.Thread(target=batcher.abort, daemon=True).start()
            else:
                threading.Thread(target=self.stop, daemon=True).start()
            self._told_before = True

        _told_before = False

    timeouts = clients.timeouts
    config = uvicorn.Config(
        make_app(batcher, name, clients.limits, clients.access, timeouts.read),
        host=host,
        port=port,
        http=patient(timeouts.read, timeouts.send),
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_keep_alive=timeouts.keep_alive,  # type: ignore[arg-type]  # any number will do
        timeout_graceful_shutdown=int(grace) + 5,
    )
    return Server(config)


def _run(server: Any, host: str, port: int) -> None:
    try:
        server.run()
    except SystemExit as stop:
        # uvicorn logs why it cannot listen, and exits.
        raise InputError(
            f"the server could not listen on {host}:{port}; is the port taken? Choose another one "
            "with --port."
        ) from stop
