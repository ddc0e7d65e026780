"""A server process: attach, listen, and on SIGTERM answer or tell everybody before it ends."""

import logging
import threading
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any

from interp.checkpoint import Checkpoint
from interp.errors import InputError
from steering.runtime.plan import Policies
from steering.runtime.runtime import apply
from steering.serve.batcher import Batcher
from steering.serve.requests import Limits

_log = logging.getLogger("mechguard")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


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
        ready: called with the uvicorn server once it listens.
        allow: as for `steering.attach`.

    Raises:
        InputError: the extra is not installed, the checkpoint has no chat template, the policy does
            not fit it, or the address is taken.
    """
    require_extra()
    _require_chat(checkpoint)
    if host not in _LOOPBACK:
        _log.warning("listening on %s: whoever reaches this address is answered, unasked.", host)
    with apply(checkpoint, policy, allow=allow) as attachment:
        batcher = Batcher(attachment, max_batch=max_batch, max_queue=max_queue)
        server = _server(batcher, name or checkpoint.name, limits or Limits(), host, port, grace)
        server.on_ready = ready
        _run(server, host, port)
        _log.info("answered %d requests in %d batches", batcher.answered, batcher.batches)


def _require_chat(checkpoint: Checkpoint) -> None:
    if getattr(checkpoint.tokenizer, "chat_template", None) is None:
        raise InputError(
            f"{checkpoint.name} has no chat template, so it cannot be served as a chat model; name "
            "one with --chat-template."
        )


def _server(batcher: Batcher, name: str, limits: Limits, host: str, port: int, grace: float) -> Any:
    import uvicorn

    from steering.serve.app import make_app

    class Server(uvicorn.Server):
        """Drains the batcher when it is told to stop."""

        on_ready: Callable[[Any], None] | None = None

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started and self.on_ready is not None:
                self.on_ready(self)

        def stop(self) -> None:
            """End as after SIGTERM."""
            self.should_exit = True
            batcher.drain()
            timer = threading.Timer(grace, batcher.abort)
            timer.daemon = True
            timer.start()

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.should_exit:
                self.force_exit = True  # told twice
                batcher.abort()
            else:
                # In a thread of its own: the signal may come while the batcher's lock is held.
                threading.Thread(target=self.stop, daemon=True).start()

    config = uvicorn.Config(
        make_app(batcher, name, limits),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="on",
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
