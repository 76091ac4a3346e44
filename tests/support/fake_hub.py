"""A Hugging Face Hub on a socket of this machine, as far as one client pushes and fetches folders."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Hub:
    """Repositories by name, each a list of commits, which are files by path; and what was asked."""

    def __init__(self):
        self.repositories, self.asked, self.sent = {}, [], []

    def commit(self, name, lines):
        files = dict(self.repositories[name][-1]) if self.repositories[name] else {}
        for line in map(json.loads, lines):
            path = line["value"].get("path")
            if line["key"] == "deletedFile":
                del files[path]
            elif line["key"] == "file":
                files[path] = base64.b64decode(line["value"]["content"])
                self.sent.append(path)
        self.repositories[name].append(files)

    def at(self, name, revision):
        commits = self.repositories[name]
        return next((n for n in range(len(commits)) if self.sha(n) == revision), len(commits) - 1)

    @staticmethod
    def sha(number):
        return f"{number + 1:040x}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, found, status=200, body=True, **headers):
        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def do_POST(self):
        hub, given = self.server.hub, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.asked.append(self.path)
        url = f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/api/repos/create":
            name = json.loads(given)["name"]
            hub.repositories.setdefault(f"me/{name}", [])
            return self.answer({"url": f"{url}/me/{name}", "name": f"me/{name}"})
        match = re.fullmatch(r"/api/models/(me/\w+)/(preupload|commit)/main.*", self.path)
        if match is None:
            return self.answer({}, 200 if self.path == "/api/validate-yaml" else 404)
        name, action = match.groups()
        if action == "preupload":
            files = json.loads(given)["files"]
            last = hub.repositories[name][-1] if hub.repositories[name] else {}
            return self.answer(
                {
                    "files": [
                        {
                            "path": f["path"],
                            "uploadMode": "regular",
                            "shouldIgnore": False,
                            "oid": _oid(last.get(f["path"])),
                        }
                        for f in files
                    ]
                }
            )
        hub.commit(name, given.splitlines())
        sha = hub.sha(len(hub.repositories[name]) - 1)
        return self.answer({"success": True, "commitOid": sha, "commitUrl": f"{url}/{name}/commit/{sha}"})

    def do_GET(self, body=True):
        hub, path = self.server.hub, unquote(self.path)
        hub.asked.append(path)
        if match := re.match(r"/api/models/(me/\w+)(?:/(revision|tree)/(\w+))?", path):
            name, what, revision = match.groups()
            if name not in hub.repositories:
                return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            number = hub.at(name, revision)
            files = hub.repositories[name][number] if hub.repositories[name] else {}
            if what == "tree":
                listed = [
                    {"type": "file", "path": p, "size": len(f), "oid": _oid(f)} for p, f in files.items()
                ]
                return self.answer(listed)
            siblings = [{"rfilename": p} for p in files]
            return self.answer({"id": name, "modelId": name, "sha": hub.sha(number), "siblings": siblings})
        match = re.fullmatch(r"/(me/\w+)/resolve/(\w+)/(.+)", path)
        if match is None or match[3] not in hub.repositories[match[1]][hub.at(match[1], match[2])]:
            return self.answer({"error": "Entry not found"}, 404, body=body, X_Error_Code="EntryNotFound")
        name, revision, file = match.groups()
        number = hub.at(name, revision)
        found = hub.repositories[name][number][file]
        tag = f'"{_oid(found)}"'
        return self.answer(found, body=body, ETag=tag, X_Repo_Commit=hub.sha(number))

    def do_HEAD(self):
        self.do_GET(body=False)


def _oid(data):
    return None if data is None else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def served():
    """A hub that is there meanwhile, and its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.hub = Hub()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.hub, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
