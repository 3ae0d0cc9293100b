"""A Hub on the loopback interface, as far as its public clients ask for one: repositories, commits, LFS, card checks.

    with HubServer() as hub:
        subprocess.run([...], env=os.environ | hub.environment(cache_folder))

It keeps everything in memory and, on request, breaks a connection half-way (`hub.break_connections`).
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote

import yaml

USER, TOKEN = "stranger", "hf_loopback"
LFS_SUFFIXES = (".safetensors", ".parquet", ".png")
LICENSES = {"apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "other", "unknown"}
API = re.compile(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/([a-z-]+)(?:/([^/]+)(?:/(.*))?)?)?$")
RESOLVE = re.compile(r"/(datasets/|spaces/|)([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
LFS_BATCH = re.compile(r"/(?:datasets/|spaces/|)([^/]+/[^/]+)\.git/info/lfs/objects/batch$")


class HubError(Exception):
    """An answer that is no success: status and the Hub's error code."""

    def __init__(self, status, code="", message=""):
        self.status, self.code, self.message = status, code, message


@dataclass
class Commit:
    sha: str
    title: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """Commits, oldest first, and names for them."""

    private: bool = False
    commits: list[Commit] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, title, files, revision="main"):
        sha = hashlib.sha1(f"{id(self)} {len(self.commits)} {title}".encode()).hexdigest()
        self.commits.append(Commit(sha, title, files))
        self.refs[revision] = sha
        return sha

    def at(self, revision):
        sha = self.refs.get(revision, revision)
        for commit in self.commits:
            if commit.sha == sha:
                return commit
        raise HubError(404, "RevisionNotFound")


@dataclass
class Fault:
    """Break connections of a method to paths that hold a text, after some bytes of the body."""

    method: str
    text: str
    after: int
    times: int


class HubServer(ThreadingHTTPServer):
    """The server, running in a thread of this process between `with` and its end.

    Args:
        lfs: False takes every file in the commit itself, as the Hub does with small ones.
    """

    daemon_threads = True

    def __init__(self, lfs=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lfs = lfs
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []  # "METHOD path [range]", in order
        self.faults: list[Fault] = []

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that was cut off is not worth a trace."""

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, home, token=TOKEN):
        """Environment variables of a client: this Hub, a cache of its own, no Xet, a token or none."""
        variables = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "HF_TOKEN": token or "",
            "NO_PROXY": "127.0.0.1",
        }
        return variables

    def break_connections(self, method, text, after=0, times=10**6):
        """Break the next `times` requests of `method` whose path holds `text`, after `after` bytes of the body."""
        self.faults.append(Fault(method, text, after, times))

    def mend(self):
        """Break nothing any more."""
        self.faults.clear()

    def fault(self, method, path):
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and fault.text in path:
                fault.times -= 1
                return fault
        return None

    def repository(self, kind, name):
        if (kind, name) not in self.repositories:
            raise HubError(404, "RepoNotFound", "Repository not found")
        return self.repositories[kind, name]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_):
        """Nothing: tests read `server.requests`."""

    def do_GET(self):  # noqa: N802
        self.answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def answer(self):
        self.path, _, query = self.path.partition("?")
        self.query = parse_qs(query)
        byte_range = self.headers.get("Range", "")
        self.server.requests.append(f"{self.command} {unquote(self.path)} {byte_range}".strip())
        self.broken = self.server.fault(self.command, unquote(self.path))
        length = int(self.headers.get("Content-Length") or 0)
        if self.broken and self.command in ("POST", "PUT"):
            self.rfile.read(min(length, self.broken.after))
            self.close_connection = True
            self.connection.close()
            return
        self.body = self.read_chunks() if self.headers.get("Transfer-Encoding") else self.rfile.read(length)
        try:
            self.route()
        except HubError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
            self.send(error.status, {"error": error.message}, {name: text for name, text in headers.items() if text})

    def read_chunks(self):
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def send(self, status, content=b"", headers=None):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers = {"Content-Type": "application/json"} | (headers or {})
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            if self.broken:
                content = content[: self.broken.after]
                self.close_connection = True
            with suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(content)

    def need_token(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise HubError(401, message="Invalid username or password.")

    def open_repository(self, kind, name):
        repository = self.server.repository(kind, name)
        if repository.private:
            self.need_token()
        return repository

    def route(self):
        path = unquote(self.path)
        if match := API.match(self.path):
            kind, name, action, revision, rest = match.groups()
            self.api(kind, name, action, unquote(revision or "main"), unquote(rest or ""))
        elif match := RESOLVE.match(path):
            prefix, name, revision, file = match.groups()
            self.resolve(self.open_repository((prefix or "models/")[:-1], name), revision, file)
        elif match := LFS_BATCH.match(path):
            self.need_token()
            self.lfs_batch()
        elif path.startswith("/lfs/") and self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != path.removeprefix("/lfs/"):
                raise HubError(400, message="The bytes do not match their hash")
            self.server.blobs[path.removeprefix("/lfs/")] = self.body
            self.send(200)
        elif path == "/api/repos/create":
            self.create()
        elif path == "/api/whoami-v2":
            self.need_token()
            self.send(200, {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})
        elif path == "/api/validate-yaml":
            errors = card_errors(json.loads(self.body)["content"])
            self.send(400 if errors else 200, {"errors": [{"message": text} for text in errors], "warnings": []})
        else:
            raise HubError(404, message=f"{self.command} {path} is not part of this Hub")

    def create(self):
        self.need_token()
        request = json.loads(self.body)
        name = f"{request.get('organization') or USER}/{request['name']}"
        kind = request.get("type", "model") + "s"
        url = f"{self.server.endpoint}/{'' if kind == 'models' else kind + '/'}{name}"
        if (kind, name) in self.server.repositories:
            self.send(409, {"url": url, "error": "You already created this repo"})
            return
        repository = self.server.repositories[kind, name] = Repository(
            private=request.get("visibility") == "private" or bool(request.get("private"))
        )
        repository.commit("initial commit", {".gitattributes": b""})
        self.send(200, {"url": url, "name": name, "id": name})

    def api(self, kind, name, action, revision, rest):
        repository = self.open_repository(kind, name)
        if self.command != "GET" and action != "paths-info":
            self.need_token()
        if action in (None, "revision"):
            self.send(200, self.info(name, repository, repository.at(revision)))
        elif action == "tree":
            recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
            self.send(200, list_folder(repository.at(revision).files, rest, recursive))
        elif action == "paths-info":
            body = json.loads(self.body) if self.body.startswith(b"{") else parse_qs(self.body.decode())
            paths = body.get("paths", [])
            entries = list_folder(repository.at(revision).files, "", True)
            self.send(200, [entry for entry in entries if entry["path"] in paths])
        elif action == "preupload":
            self.send(200, {"files": [self.preupload(file, repository.at(revision)) for file in self.json()["files"]]})
        elif action == "commit":
            self.commit(kind, name, repository, revision)
        elif action == "commits":
            commits = reversed(repository.commits)
            keys = {"authors": [{"user": USER}], "date": "2026-01-01T00:00:00.000Z", "message": ""}
            self.send(200, [{"id": commit.sha, "title": commit.title, **keys} for commit in commits])
        elif action == "refs":
            refs = [
                {"name": key, "ref": f"refs/heads/{key}", "targetCommit": sha} for key, sha in repository.refs.items()
            ]
            self.send(200, {"branches": refs, "tags": [], "converts": []})
        elif action in ("tag", "branch"):
            start = revision if action == "tag" else self.json().get("startingPoint") or "main"
            repository.refs[self.json()["tag"] if action == "tag" else revision] = repository.at(start).sha
            self.send(200, {})
        else:
            raise HubError(404, message=f"{action} is not part of this Hub")

    def json(self):
        return json.loads(self.body or b"{}")

    def info(self, name, repository, commit):
        card = front_matter(commit.files.get("README.md", b"").decode()) or {}
        return {
            "id": name,
            "modelId": name,
            "sha": commit.sha,
            "private": repository.private,
            "downloads": 0,
            "likes": 0,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "tags": card.get("tags", []),
            "pipeline_tag": card.get("pipeline_tag"),
            "library_name": card.get("library_name"),
            "cardData": card,
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }

    def preupload(self, file, commit):
        large = self.server.lfs and file["path"].endswith(LFS_SUFFIXES)
        content = commit.files.get(file["path"])
        oid = None if content is None else hashlib.sha256(content).hexdigest() if large else git_oid(content)
        return {
            "path": file["path"],
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": False,
            "oid": oid,
        }

    def lfs_batch(self):
        objects = []
        for item in self.json()["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.server.blobs:
                answer["actions"] = {"upload": {"href": f"{self.server.endpoint}/lfs/{item['oid']}", "header": {}}}
            objects.append(answer)
        self.send(200, {"transfer": "basic", "objects": objects})

    def commit(self, kind, name, repository, revision):
        files = dict(repository.at(revision).files)
        title = ""
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                title = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif key == "deletedFile":
                files.pop(value["path"], None)
            elif key == "deletedFolder":
                files = {
                    path: data for path, data in files.items() if not path.startswith(value["path"].rstrip("/") + "/")
                }
        sha = repository.commit(title, files, revision)
        url = f"{self.server.endpoint}/{'' if kind == 'models' else kind + '/'}{name}/commit/{sha}"
        self.send(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def resolve(self, repository, revision, file):
        commit = repository.at(revision)
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if file not in commit.files:
            self.send(404, b"Entry not found", headers | {"X-Error-Code": "EntryNotFound"})
            return
        content = commit.files[file]
        large = file.endswith(LFS_SUFFIXES)
        headers["ETag"] = f'"{hashlib.sha256(content).hexdigest() if large else git_oid(content)}"'
        if match := re.match(r"bytes=(\d*)-(\d*)$", self.headers.get("Range", "")):
            start = int(match[1]) if match[1] else max(len(content) - int(match[2]), 0)
            stop = int(match[2]) + 1 if match[1] and match[2] else len(content)
            headers["Content-Range"] = f"bytes {start}-{min(stop, len(content)) - 1}/{len(content)}"
            self.send(206, content[start:stop], headers)
            return
        self.send(200, content, headers)


def git_oid(content):
    """What git calls a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def list_folder(files, folder, recursive):
    """Entries of the Hub's tree answer, below a folder."""
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    below = {path: data for path, data in sorted(files.items()) if path.startswith(prefix)}
    if folder and not below:
        raise HubError(404, "EntryNotFound")
    entries, folders = [], []
    for path, content in below.items():
        *parents, _ = path.removeprefix(prefix).split("/")
        steps = [
            prefix + "/".join(parents[: count + 1])
            for count in range(len(parents) if recursive else min(len(parents), 1))
        ]
        folders += [step for step in steps if step not in folders]
        if recursive or not parents:
            entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
            if path.endswith(LFS_SUFFIXES):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            entries.append(entry)
    return [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders] + entries


def front_matter(text):
    """The YAML mapping at the head of a card; None without one."""
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


def card_errors(text):
    """What the Hub refuses in a card's metadata (documented fields only)."""
    try:
        card = front_matter(text)
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"]
    if not isinstance(card, dict):
        return [] if card is None else ["the metadata is no mapping"]
    errors = []
    if card.get("license") not in LICENSES | {None}:
        errors.append(f"license {card['license']!r} is unknown")
    if card.get("license") == "other" and "license_name" not in card:
        errors.append("license 'other' needs a license_name")
    for dataset in card.get("datasets") or []:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(dataset)):
            errors.append(f"datasets: {dataset!r} is no data set id")
    for index, entry in enumerate(card.get("model-index") or []):
        if "name" not in entry or not entry.get("results"):
            errors.append(f"model-index[{index}] needs a name and results")
        for result in entry.get("results") or []:
            if "type" not in result.get("task", {}) or not {"type", "name"} <= set(result.get("dataset", {})):
                errors.append(f"model-index[{index}]: a result needs task.type, dataset.type and dataset.name")
            for metric in result.get("metrics") or [{}]:
                if "type" not in metric or not isinstance(metric.get("value"), int | float):
                    errors.append(f"model-index[{index}]: a metric needs a type and a numeric value")
    return errors


def read_repository(hub, name, kind="models"):
    """Files of the newest commit, as text or bytes by path."""
    return hub.repository(kind, name).commits[-1].files


def add_repository(hub, name, folder, kind="models"):
    """Put a folder's files into a repository, without a client."""
    repository = hub.repositories.setdefault((kind, name), Repository())
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }
    return repository.commit("add files", files)


__all__ = ["TOKEN", "USER", "HubServer", "add_repository", "card_errors", "read_repository"]
