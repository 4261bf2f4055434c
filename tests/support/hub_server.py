"""A Hub of one process for tests: repositories, commits and files in memory, over the routes that the client uses."""

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

import yaml


class Hub(ThreadingHTTPServer):
    """`repositories` holds for each id its commits, oldest first: (sha, {path: content}).

    `branches` holds the same for each (id, branch) that was made beside main; `tags` the commit of each (id, tag);
    `private` and `gated` the ids that need a token; `messages` what commits were called. A fault is a list of a
    pattern of requests, such as "GET .*/model.safetensors", how often it strikes, and what happens: {"status": 500,
    "headers": {}}, {"cut": true} for an answer that ends half way, {"corrupt": true} for one of other bytes, or
    {"slow": seconds}.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories, self.branches, self.tags, self.blobs, self.messages = {}, {}, {}, {}, {}
        self.asked, self.faults, self.private, self.gated = [], [], set(), set()

    def commit(self, repo, changes, revision="main"):
        commits = self.branches.get((repo, revision), self.repositories.setdefault(repo, []))
        files = {**(commits[-1][1] if commits else {}), **changes}
        sha = hashlib.sha1(f"{repo} {revision} {len(commits)}".encode()).hexdigest()
        commits.append((sha, files))
        return sha

    def strikes(self, request):
        """What goes wrong with a request, if anything does."""
        for fault in self.faults:
            if fault[1] > 0 and re.fullmatch(fault[0], request):
                fault[1] -= 1
                return fault[2]
        return {}

    def snapshot(self, repo, revision):
        revision = self.tags.get((repo, revision), revision)
        commits = self.branches.get((repo, revision), self.repositories[repo])
        if revision == "main" or (repo, revision) in self.branches:
            return commits[-1]
        every = [commits, *(own for (name, _), own in self.branches.items() if name == repo)]
        return next(one for own in every for one in own if one[0] == revision)


@contextlib.contextmanager
def running_hub():
    """Serve a Hub on the loopback until the block ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class Answer(BaseHTTPRequestHandler):
    """One request; each route is a method named in ROUTES."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Keep quiet."""

    def do_GET(self):
        path = unquote(self.path.partition("?")[0])
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        part = f" {self.headers['Range']}" if self.headers.get("Range") else ""
        self.server.asked.append(f"{self.command} {path}{part}")
        self.fault = self.server.strikes(f"{self.command} {path}")
        time.sleep(self.fault.get("slow", 0))
        if "status" in self.fault:
            return self.send(self.fault["status"], {"error": "a fault"}, **self.fault.get("headers", {}))
        if refused := self.refused(path):
            return self.send(*refused[:2], X_Error_Code=refused[2])
        for pattern, route in ROUTES:
            found = re.fullmatch(pattern, path)
            if found:
                return route(self, *found.groups())
        return self.send(404, {"error": f"no route for {path}"})

    do_HEAD = do_POST = do_PUT = do_GET

    def refused(self, path):
        """The answer to who must not read or write here, if any."""
        known = self.headers.get("Authorization", "").startswith("Bearer hf_")
        repo = (re.match(rf"/(?:api/models/)?{REPO}(?:/|$)", path) or [None, None])[1]
        if not known and (repo in self.server.private or path == "/api/repos/create"):
            return 401, {"error": "Invalid username or password."}, "RepoNotFound"
        if not known and repo in self.server.gated and "/resolve/" in path:
            return 403, {"error": f"Access to model {repo} is restricted."}, "GatedRepo"
        return None

    def send(self, status, content, **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        if self.fault.get("corrupt"):
            data = data[: len(data) // 2] + bytes(255 - byte for byte in data[len(data) // 2 :])
        if self.fault.get("cut"):
            data, self.close_connection = data[: len(data) // 2], True
        if self.command != "HEAD":
            self.wfile.write(data)

    def take_faults(self):
        """Faults that a test in another process asks for."""
        self.server.faults = json.loads(self.body)
        self.send(200, {})

    def create(self):
        asked = json.loads(self.body)
        repo = "/".join(one for one in (asked.get("organization"), asked["name"]) if one)
        known = repo in self.server.repositories
        if not known:
            self.server.private |= {repo} if asked.get("private") or asked.get("visibility") == "private" else set()
            self.server.commit(repo, {".gitattributes": b""})
        self.send(409 if known else 200, {"url": f"{self.server.endpoint}/{repo}", "id": repo})

    def branch(self, repo, name):
        known = (repo, name) in self.server.branches
        self.server.branches.setdefault((repo, name), list(self.server.repositories[repo]))
        self.send(409 if known else 200, {})

    def tag(self, repo, revision):
        self.server.tags[repo, json.loads(self.body)["tag"]] = self.server.snapshot(repo, revision)[0]
        self.send(200, {})

    def models(self):
        """Those of an author that have all the tags asked for, as the cards say."""
        asked = parse_qs(self.path.partition("?")[2])
        author, wanted = (
            asked.get("author", [None])[0],
            {one for own in asked.get("filter", []) for one in own.split(",")},
        )
        answers = [
            {"id": repo, "modelId": repo, "tags": tags, "downloads": 3, "lastModified": "2026-11-29T00:00:00.000Z"}
            for repo, commits in self.server.repositories.items()
            if wanted <= set(tags := tags_of(commits[-1][1])) and author in (None, repo.partition("/")[0])
        ]
        self.send(200, answers[: int(asked.get("limit", [1000])[0])])

    def validate(self):
        self.send(200, {"errors": [], "warnings": []})

    def preupload(self, repo, revision):
        def kind(path):
            return "lfs" if path.endswith(".safetensors") else "regular"

        files = [one["path"] for one in json.loads(self.body)["files"]]
        self.send(200, {"files": [{"path": p, "uploadMode": kind(p), "shouldIgnore": False} for p in files]})

    def batch(self, repo):
        def answer(one):
            if one["oid"] in self.server.blobs:  # uploaded before
                return one
            return {**one, "actions": {"upload": {"href": f"{self.server.endpoint}/blobs/{one['oid']}"}}}

        objects = [answer(one) for one in json.loads(self.body)["objects"]]
        self.send(200, {"transfer": "basic", "objects": objects})

    def put(self, oid):
        self.server.blobs[oid] = self.body
        self.send(200, {})

    def commit(self, repo, revision):
        changes = {}
        for line in self.body.splitlines():
            one = json.loads(line)
            value = one["value"]
            if one["key"] == "header":
                self.server.messages.setdefault(repo, []).append(value["summary"])
            elif one["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "lfsFile":
                changes[value["path"]] = self.server.blobs[value["oid"]]
        sha = self.server.commit(repo, changes, revision)
        self.send(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.server.endpoint}/{repo}/commit/{sha}"})

    def info(self, repo, revision="main"):
        try:
            sha, files = self.server.snapshot(repo, revision)
        except (KeyError, StopIteration):
            return self.send(404, {"error": "not found"}, X_Error_Code="RepoNotFound")
        listed = [{"rfilename": path} for path in files]
        return self.send(200, {"id": repo, "modelId": repo, "sha": sha, "siblings": listed, "tags": []})

    def tree(self, repo, revision):
        _, files = self.server.snapshot(repo, revision)
        self.send(200, [{"type": "file", "path": p, "size": len(d), "oid": etag(d)} for p, d in files.items()])

    def resolve(self, repo, revision, path):
        try:
            sha, files = self.server.snapshot(repo, revision)
        except KeyError:
            return self.send(404, {}, X_Error_Code="RepoNotFound")
        except StopIteration:
            return self.send(404, {}, X_Error_Code="RevisionNotFound")
        if path not in files:
            return self.send(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        headers = {"X_Repo_Commit": sha, "ETag": f'"{etag(files[path])}"'}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or ""):
            return self.send(206, files[path][int(asked[1]) : int(asked[2]) + 1], **headers)
        return self.send(200, files[path], **headers)


def tags_of(files):
    """The tags of a repository, as the Hub makes them of its card."""
    front = re.match(rb"---\n(.*?)\n---", files.get("README.md", b""), flags=re.DOTALL)
    card = yaml.safe_load(front[1]) if front else {}
    base = (
        [f"base_model:{card['base_model']}", f"base_model:adapter:{card['base_model']}"]
        if "base_model" in card
        else []
    )
    return [*card.get("tags", []), *base]


def etag(data):
    return hashlib.sha1(data).hexdigest()


REPO = r"([^/]+/[^/]+)"
ROUTES = (
    (r"/api/repos/create", Answer.create),
    (r"/api/validate-yaml", Answer.validate),
    (r"/faults", Answer.take_faults),
    (r"/api/models", Answer.models),
    (rf"/api/models/{REPO}/branch/([^/]+)", Answer.branch),
    (rf"/api/models/{REPO}/tag/([^/]+)", Answer.tag),
    (rf"/api/models/{REPO}/preupload/([^/]+)", Answer.preupload),
    (rf"/{REPO}\.git/info/lfs/objects/batch", Answer.batch),
    (r"/blobs/(\w+)", Answer.put),
    (rf"/api/models/{REPO}/commit/([^/]+)", Answer.commit),
    (rf"/api/models/{REPO}", Answer.info),
    (rf"/api/models/{REPO}/revision/([^/]+)", Answer.info),
    (rf"/api/models/{REPO}/tree/([^/]+)", Answer.tree),
    (rf"/{REPO}/resolve/([^/]+)/(.+)", Answer.resolve),
)
