"""Start the server: take the port before the model is loaded, print the address when everything is ready."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

from ..errors import need
from .access import Access

if TYPE_CHECKING:
    from ..index.pir_index import PIRIndex


def take_port(host: str, port: int) -> socket.socket:
    """A socket that is bound, not yet listening.

    Args:
        host: address to listen on.
        port: 0 for any that is free.

    Raises:
        ValueError: the port is taken, or the address is none of this machine's.
        ImportError: the web server is missing.
    """
    for module in ("fastapi", "fastapi_offline", "uvicorn"):
        need(module, "serve", "The page needs")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, or asyncio leaves Nagle's algorithm on, and an answer waits 40 ms for its second packet.
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
    except (OSError, OverflowError) as error:
        taken.close()
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{host} port {port} cannot be used ({reason}): name another one with --port.") from error
    return taken


def launch(
    index: PIRIndex,
    taken: socket.socket,
    access: Access = Access(),  # noqa: B008 - immutable
    show_paths: bool = False,
    name: str | None = None,
) -> None:
    """Serve until interrupted.

    Args:
        index: with its model.
        taken: where to listen, see [`take_port`].
        access: who may ask.
        show_paths: see [`Archive`].
        name: see [`Archive`].
    """
    import uvicorn

    from .app import build_app
    from .archive import Archive

    archive = Archive(index, show_paths, name)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(build_app(archive, access), log_config=None, access_log=False, server_header=False)
    taken.listen()  # so that who reads the address at once is served, not refused
    print(f"Open {address(taken, access)} in a browser; Ctrl-C ends it.", flush=True)
    uvicorn.Server(config).run(sockets=[taken])


def address(taken: socket.socket, access: Access) -> str:
    """What to open in a browser, the token with it."""
    host, port = taken.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={access.token}" if access.token else "")
