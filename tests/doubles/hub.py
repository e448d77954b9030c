"""A model hub on the loopback interface that keeps the rules of the Hugging Face hub's API, as its client reads them.

Listing in pages, commits by branch, ETags; large files redirect to a content store on another host, which honours Range and
needs no token; private and gated repositories.
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

PAGE_FILES = 5  # small, so that a listing has several pages
LARGE_SUFFIXES = (".safetensors", ".bin")


class Hub:
    """Repositories of files; `tokens` maps a repository to the token that may read it."""

    def __init__(self):
        self.commits, self.branches, self.tokens, self.gated = {}, {}, {}, set()
        self.requests = []
        self.broken_after = None  # bytes of a large file after which the connection breaks
        self.missing = None  # content that the store breaks off at once
        self.is_down = False

    def add(self, repo, commit, files, *, branch="main"):
        """Push a commit of a repository: names and bytes."""
        self.commits[repo, commit] = dict(files)
        self.branches[repo, branch] = commit

    def commit_of(self, repo, revision):
        if (repo, revision) in self.commits:
            return revision
        return self.branches.get((repo, revision))

    def stored(self, data):
        """The requests of one large file's content."""
        place = f"/store/{hashlib.sha256(data).hexdigest()}"
        return [path for method, path, _ in self.requests if method == "GET" and path == place]

    def downloads(self):
        """The paths of all files that were requested with GET."""
        return [path for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]


def start(hub):
    """Serve `hub`; returns the server and its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def log_message(self, *args):
        pass

    def _answer(self):
        url = urlparse(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        self.hub.requests.append((self.command, url.path, dict(self.headers)))
        if self.hub.is_down:
            return self._send(503, b"down")
        if parts[:2] == ["api", "models"]:
            repo, kind, revision = "/".join(parts[2:4]), parts[4], parts[5]
            return self._allowed(repo) and self._api(repo, kind, revision, url.query)
        if parts[0] == "store":
            return self._large(parts[1])
        if parts[0] == "api":
            return self._send(404, b"{}")
        repo, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        return self._allowed(repo) and self._file(repo, revision, name)

    def _allowed(self, repo):
        """Whether the caller may read the repository; an unknown and a private one look alike."""
        known = any(one == repo for one, _ in self.hub.commits)
        token = self.hub.tokens.get(repo)
        has_token = self.headers.get("Authorization") == f"Bearer {token}"
        if repo in self.hub.gated and not has_token:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
            return False
        if not known or (token and not has_token):
            self._send(404 if self.headers.get("Authorization") else 401, b"{}", {"X-Error-Code": "RepoNotFound"})
            return False
        return True

    def _api(self, repo, kind, revision, query):
        commit = self.hub.commit_of(repo, revision)
        if commit is None:
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = self.hub.commits[repo, commit]
        if kind == "revision":
            siblings = [{"rfilename": name} for name in files]
            return self._json({"id": repo, "sha": commit, "siblings": siblings, "private": False, "tags": []})
        assert kind == "tree", kind
        first = int(parse_qs(query).get("cursor", ["0"])[0])
        names = sorted(files)
        page = [_tree_entry(name, files[name]) for name in names[first : first + PAGE_FILES]]
        headers = {}
        if first + PAGE_FILES < len(names):
            following = f"{self._base()}{urlparse(self.path).path}?recursive=true&cursor={first + PAGE_FILES}"
            headers["Link"] = f'<{following}>; rel="next"'
        return self._json(page, headers)

    def _file(self, repo, revision, name):
        commit = self.hub.commit_of(repo, revision)
        if commit is None:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if name not in self.hub.commits[repo, commit]:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        data = self.hub.commits[repo, commit][name]
        headers = {"X-Repo-Commit": commit}
        if name.endswith(LARGE_SUFFIXES):
            digest = hashlib.sha256(data).hexdigest()
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            return self._send(
                302, b"", headers | {"Location": f"http://localhost:{self.server.server_port}/store/{digest}"}
            )
        return self._send(200, data, headers | {"ETag": f'"{_blob_id(data)}"'})

    def _large(self, digest):
        files = (data for files in self.hub.commits.values() for data in files.values())
        data = next(one for one in files if hashlib.sha256(one).hexdigest() == digest)
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        body = data[first:]
        self.send_response(206 if first else 200)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            limit = 0 if data == self.hub.missing else self.hub.broken_after
            self.wfile.write(body if limit is None else body[:limit])
            self.close_connection = limit is not None

    def _base(self):
        return f"http://{self.headers['Host']}"

    def _json(self, value, headers=None):
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status, body, headers=None):
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _tree_entry(name, data):
    entry = {"type": "file", "path": name, "size": len(data), "oid": _blob_id(data)}
    if name.endswith(LARGE_SUFFIXES):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def _blob_id(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 (git's object name)
