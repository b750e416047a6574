"""The server of the page: on 127.0.0.1 alone, for pages of its own address alone."""

from __future__ import annotations

import socket
from typing import Any

import panel as pn

from ..checks import InputError
from .layout import BODY
from .page import Page
from .view import View

ADDRESS = "127.0.0.1"


def free_port(port: int) -> int:
    """The port, or any free one for 0; InputError if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except (OSError, OverflowError):
            raise InputError(
                f"--port: expected a free port, found {port}; name another, or 0 for any."
            ) from None
        return int(probe.getsockname()[1])


def serve(view: View, port: int, *, show: bool = False, threaded: bool = False) -> Any:
    """Serve the page until it is interrupted, or from a thread that is returned.

    Only pages of ``http://127.0.0.1:port`` and ``http://localhost:port`` may connect.
    """
    pn.extension(raw_css=[BODY], notifications=False)
    return pn.serve(
        {"/": lambda: _page(view)}, address=ADDRESS, port=port, show=show, threaded=threaded, title="stedyn explore",
        websocket_origin=[f"{ADDRESS}:{port}", f"localhost:{port}"], verbose=False, use_index=False,
    )  # fmt: skip


def _page(view: View) -> Any:
    dark = pn.config.theme == "dark"
    return Page(view, dark).layout()
