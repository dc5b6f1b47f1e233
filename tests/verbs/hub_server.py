"""A stand-in for the Hugging Face Hub: the few requests with which a client makes a repository and
commits to it, in memory.
"""

import base64
import contextlib
import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OWNER = "sleeper"
ROLES = {"hf_write": "write", "hf_read": "read"}  # by token


@dataclasses.dataclass
class StoredRepository:
    """What the stand-in knows of a repository: its visibility, files, and messages of commits."""

    visibility: str
    files: dict[str, bytes]
    commits: list[str]


class Handler(BaseHTTPRequestHandler):
    """Answers one request; the server's `repositories` are by name."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/api/whoami-v2":
            return self.answer({"name": OWNER, "auth": {"accessToken": {"role": self.role}}})
        name, _, part = path.removeprefix("/api/models/").partition("/tree/")
        if (stored := self.server.repositories.get(name)) is None:
            return self.answer({}, 404, {"X-Error-Code": "RepoNotFound"})
        if part:
            return self.answer(
                [
                    {"type": "file", "path": path, "size": len(data), "oid": "0" * 40}
                    for path, data in stored.files.items()
                ]
            )
        siblings = [{"rfilename": path} for path in stored.files]
        return self.answer({"id": name, "sha": self.commit_of(stored), "siblings": siblings})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            return self.create(**json.loads(body))
        name, _, what = self.path.removeprefix("/api/models/").rpartition("/")[0].rpartition("/")
        if what == "preupload":
            asked = json.loads(body)["files"]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer({"files": [{"path": file["path"], **how} for file in asked]})
        return self.commit(name, [json.loads(line) for line in body.splitlines()])

    def create(self, name, organization=None, visibility="public", **rest):
        full = f"{organization or OWNER}/{name}"
        if not full.startswith(f"{OWNER}/"):
            return self.answer({"error": "You don't have the rights"}, 403)
        url = {"url": f"{self.address}/{full}"}
        if full in self.server.repositories:
            return self.answer(url, 409)
        self.server.repositories[full] = StoredRepository(visibility, {".gitattributes": b""}, [])
        return self.answer(url)

    def commit(self, name, operations):
        stored = self.server.repositories[name]
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "header":
                stored.commits.append(value["summary"])
            elif operation["key"] == "file":
                stored.files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "deletedFile":
                del stored.files[value["path"]]
        commit = self.commit_of(stored)
        url = f"{self.address}/{name}/commit/{commit}"
        return self.answer({"commitUrl": url, "commitOid": commit})

    def commit_of(self, stored):
        return f"{len(stored.commits):040x}"

    @property
    def role(self):
        return ROLES.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, content, status=200, headers=()):
        if self.role is None:
            content, status = {"error": "Invalid credentials"}, 401
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**dict(headers), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def hub_server() -> Iterator[tuple[str, dict[str, StoredRepository]]]:
    """A stand-in that answers meanwhile: its address, and its repositories by name."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.repositories = {}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.repositories
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
