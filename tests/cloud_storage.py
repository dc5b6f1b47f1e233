"""A stand-in for Cloud Storage on this machine that answers every request with one status, and what
a command has to say then.
"""

import contextlib
import http.server
import json
import os
import re
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
# By what the store answers (0: nothing listens): exit status of a command, and what it says.
FAILURES = {
    0: (1, "does not answer (Cannot connect to host 127.0.0.1:"),
    401: (2, "the store has no valid credentials of yours (401: Anonymous caller"),
    403: (2, "access is refused (403: sleep@example.com does not have"),
    404: (2, "there is no bucket bucket (404); make it with `gcloud"),
    503: (1, "the store cannot answer now (503: We encountered an internal"),
}


def assert_fails_in_words(status: int, exit_status: int, stderr: str, subject: str) -> None:
    """A command ended as `FAILURES` says, with one line about `subject`."""
    expected, words = FAILURES[status]
    assert exit_status == expected
    assert re.match(f"error: {re.escape(subject)}:? {re.escape(words)}", stderr), stderr
    assert stderr.count("\n") == 1


@contextlib.contextmanager
def answering(status: int, **headers: str):
    """The address of a server that answers with `status`; of no server where it is 0.

    Args:
      status: HTTP status.
      **headers: of the answer, `_` for `-`.
    """
    if not status:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # without listening: connections are refused
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
    """Runs `python ARGUMENTS` with these environment variables: (exit status, stderr, seconds)."""
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
