"""A stand-in for Cloud Storage, or for another server, on this machine: it answers every request
with one status."""

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time

MESSAGES = {
    401: "Anonymous caller does not have storage.objects.list access to the bucket.",
    403: "sleep@example.com does not have storage.objects.list access to the bucket.",
    404: "The specified bucket does not exist.",
    503: "We encountered an internal error.",
}


@contextlib.contextmanager
def answering(status: int, **headers: str):
    """The address of a server that answers so; of none where `status` is 0."""
    if not status:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # and does not listen: who connects is refused
            yield f"http://127.0.0.1:{unused.getsockname()[1]}"
        return

    class Answer(http.server.BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            error = {"error": {"code": status, "message": MESSAGES[status]}}
            body = json.dumps(error).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def command(*arguments: str, **variables: str) -> tuple[int, str, float]:
    """Runs `python ARGUMENTS` with these variables: (status, what it said on stderr, seconds)."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr, time.monotonic() - start
