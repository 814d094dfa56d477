"""A page with a form, served to this machine's own browser and to nobody else."""

import contextlib
import errno
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from .errors import UserError

REQUEST_LIMIT = 200_000  # bytes: the page's 20,000 characters, each of them up to nine bytes of a form
HOSTS = ("127.0.0.1", "localhost")
CLOSED = (  # a review is kept by no browser, and the page shown in no other site's
    ("Cache-Control", "no-store"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),
)


def serve(page: Callable[[str], str], text: str, port: int) -> None:
    """Serves `page` until Ctrl-C, beginning with that of `text`. Raises `UserError` when the port is taken."""
    with server(page, text, port) as running, contextlib.suppress(KeyboardInterrupt):
        print(f"http://{HOSTS[0]}:{running.server_port}/  (Ctrl-C ends it)", flush=True)
        running.serve_forever()
    print()


def server(page: Callable[[str], str], text: str, port: int) -> ThreadingHTTPServer:
    """On the loopback address: GET / answers with the page of `text`, POST / with that of the form's text.

    A request's path is compared and never opened; its size is bounded, and how long it may fall silent. `page` runs once at a
    time.
    """
    first, one_at_a_time = page(text), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds that a client may keep silent

        def do_GET(self) -> None:
            if self.allowed():
                self.reply(first)

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not self.allowed():
                return
            if not length.isascii() or not length.isdigit():
                self.send_error(411)
            elif len(length) > 9 or int(length) > REQUEST_LIMIT:
                self.send_error(413)
            else:
                body = self.rfile.read(int(length))
                if len(body) < int(length):  # it hung up within its text
                    return
                form = parse_qs(body.decode("ascii", "replace"))
                with one_at_a_time:
                    html = page(form.get("text", [""])[0])
                self.reply(html)

        def allowed(self) -> bool:
            """Whether the page was asked for, under this machine's name, and by no other site's form or script."""
            host = self.headers.get("Host", "")
            ours = host.partition(":")[0] in HOSTS and self.headers.get("Origin", f"http://{host}") == f"http://{host}"
            if not ours or self.path != "/":
                self.send_error(404 if ours else 403)
            return ours and self.path == "/"

        def reply(self, html: str) -> None:
            body = html.encode()
            self.send_response(200)
            for name, value in (("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body))), *CLOSED):
                self.send_header(name, value)
            with contextlib.suppress(ConnectionError, TimeoutError):  # the reader has gone elsewhere
                self.end_headers()
                for start in range(0, len(body), 1 << 16):  # the time limit is for each write, however long, and lines are slow
                    self.wfile.write(body[start : start + (1 << 16)])

        def log_message(self, format: str, *arguments) -> None:
            """Nothing: the terminal is not a web server's log."""

    try:
        return ThreadingHTTPServer((HOSTS[0], port), Handler)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise UserError(f"--port {port}: {error.strerror}; try another, say --port 0 for any that is free") from None
