"""`mechguard serve`: an OpenAI-style server whose answers are steered."""

from pathlib import Path
from typing import Annotated

import typer

from analyses.cli import options
from analyses.cli.options import DtypeChoice


def serve(
    model: options.Model,
    policy: Annotated[
        list[Path],
        typer.Option(
            help="A policy, its folder or file; given again, the next one acts behind it.",
            show_default=False,
        ),
    ],
    host: Annotated[
        str, typer.Option(help="To listen on; only this machine reaches the default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8000,
    name: Annotated[
        str | None,
        typer.Option(help="Of the model, for clients [default: MODEL].", show_default=False),
    ] = None,
    max_batch: Annotated[int, typer.Option(help="Requests in a batch.", min=1)] = 16,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait.", min=1)] = 64,
    max_tokens: Annotated[int, typer.Option(help="Of an answer, at most.", min=1)] = 1024,
    max_body: Annotated[int, typer.Option(help="Bytes of a request, at most.", min=1)] = 1_000_000,
    max_messages: Annotated[int, typer.Option(help="Of a conversation, at most.", min=1)] = 1024,
    max_strength: Annotated[
        float, typer.Option(help="Largest strength that a request may ask for.", min=0)
    ] = 4.0,
    locked: Annotated[
        bool, typer.Option("--locked", help="Requests may not change the strength.")
    ] = False,
    grace: Annotated[
        float, typer.Option(help="Seconds that answers under way get on shutdown.", min=0)
    ] = 30.0,
    read_timeout: Annotated[
        float,
        typer.Option(help="Seconds until a request's head, and then its body, must be there."),
    ] = 30.0,
    send_timeout: Annotated[
        float, typer.Option(help="Seconds that a client may leave unread what was sent to it.")
    ] = 60.0,
    keep_alive: Annotated[
        float, typer.Option(help="Seconds that a connection may be idle between two requests.")
    ] = 5.0,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that the server answers to, beside the loopback's and --host; * for any. "
            "May be given again.",
            show_default=False,
        ),
    ] = None,
    allowed_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="A site whose pages may use the server, such as https://example.org; * for any. "
            "May be given again.",
            show_default=False,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="Keys, one a line, of which a request must bring one [default: none is asked "
            "for].",
            show_default=False,
        ),
    ] = None,
    allow: options.Allow = None,
    any_model: options.AnyModel = False,
    chat_template: options.ChatTemplate = None,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Answer /v1/chat/completions, /v1/models and /health until SIGTERM, steered by policies."""
    from steering.policy.composition import compose
    from steering.policy.policy import Policy
    from steering.serve.requests import Limits
    from steering.serve.server import Timeouts, require_extra
    from steering.serve.server import serve as run

    require_extra()
    from steering.serve.access import read_keys

    keys = read_keys(api_key_file) if api_key_file is not None else []
    timeouts = Timeouts(read_timeout, send_timeout, keep_alive)
    checkpoint = options.load_checkpoint(
        model, dtype, device, revision, trust_remote_code, chat_template
    )
    allowed = options.allowed(allow, any_model)
    policies = [Policy.load(path, checkpoint, allow=allowed) for path in policy]
    run(
        checkpoint,
        compose(*policies),
        name=name,
        host=host,
        port=port,
        max_batch=max_batch,
        max_queue=max_queue,
        limits=Limits(
            max_tokens, min(256, max_tokens), max_body, max_strength, locked, max_messages
        ),
        grace=grace,
        timeouts=timeouts,
        allowed_hosts=allowed_host or (),
        allowed_origins=allowed_origin or (),
        keys=keys,
        ready=lambda server: options.say(f"listening on http://{_address(server)}/v1"),
        allow=allowed,
    )


def _address(server: object) -> str:
    sockets = [s for one in getattr(server, "servers", ()) for s in one.sockets]
    where, port = sockets[0].getsockname()[:2]
    return f"[{where}]:{port}" if ":" in where else f"{where}:{port}"
