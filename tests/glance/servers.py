"""How does a test get a Glance and a Keystone of its own, on free ports of 127.0.0.1?"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.glance.environment import (
    PASSWORD,
    glance_database,
    keystone_conf,
    keystone_state,
    program,
)
from tests.lab.shell import wait_until
from tests.service.servers import end, free_port, spawn

USER, PROJECT = "ccfd", "service"

_PASTE = """
[composite:glance-api-keystone]
paste.composite_factory = glance.api:root_app_factory
/: api
[composite:api]
paste.composite_factory = glance.api:pipeline_factory
keystone = versionnegotiation authtoken context rootapp
[composite:rootapp]
paste.composite_factory = glance.api:root_app_factory
/v2: apiv2app
[app:apiv2app]
paste.app_factory = glance.api.v2.router:API.factory
[filter:versionnegotiation]
paste.filter_factory = glance.api.middleware.version_negotiation:VersionNegotiationFilter.factory
[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
"""


def _glance_conf(folder: Path, keystone: str) -> str:
    return f"""
[DEFAULT]
enabled_backends = files:file
[glance_store]
default_backend = files
[files]
filesystem_store_datadir = {folder}/store
[os_glance_staging_store]
filesystem_store_datadir = {folder}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {folder}/tasks
[database]
connection = sqlite:///{folder}/glance.sqlite
[paste_deploy]
flavor = keystone
config_file = {folder}/paste.ini
[keystone_authtoken]
auth_type = password
interface = internal
auth_url = {keystone}
www_authenticate_uri = {keystone}
username = admin
password = {PASSWORD}
project_name = admin
user_domain_name = Default
project_domain_name = Default
"""


class Server:
    """One gunicorn that serves one of OpenStack's programs, on *address*."""

    def __init__(
        self, folder: Path, application: str, environment: dict[str, str], address: str
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://{address}:{self.port}"
        config = folder / "gunicorn.conf.py"
        config.write_text(
            f"wsgi_app = {application!r}\n"
            f"bind = '{address}:{self.port}'\n"
            "worker_class = 'gthread'\n"
            "threads = 8\n"
            "control_socket_disable = True\n"
            f"chdir = {str(folder)!r}\n"
        )
        self._environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            # Keystone would read the words of the command as its own.
            "GUNICORN_CMD_ARGS": f"-c {config}",
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, from the main thread only (see `spawn`)."""
        self._process = spawn(program("gunicorn"), self.folder, self._environment)

    def kill(self) -> None:
        """Kill it."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def log(self) -> str:
        """Return what it has printed."""
        return (self.folder / "output").read_text(errors="replace")


class Keystone(Server):
    """A Keystone with the user `ccfd` in the project `service`."""

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        shutil.copytree(keystone_state(), folder, dirs_exist_ok=True)
        (folder / "keystone.conf").write_text(keystone_conf(folder))
        super().__init__(
            folder,
            "keystone.wsgi.api:application",
            {"OS_KEYSTONE_CONFIG_DIR": str(folder)},
            address,
        )

    def wait(self) -> None:
        """Wait until it answers, and add the user."""
        wait_until(lambda: ask("GET", f"{self.url}/v3"), "Keystone", timeout=140)
        token = self.token("admin", "admin")
        domain = {"domain_id": "default"}
        project = self._add("project", {"name": PROJECT, **domain}, token)
        user = self._add("user", {"name": USER, "password": PASSWORD, **domain}, token)
        (member,) = ask("GET", f"{self.url}/v3/roles?name=member", token)["roles"]
        role = f"{self.url}/v3/projects/{project}/users/{user}/roles/{member['id']}"
        ask("PUT", role, token)
        # Glance's middleware looks in the catalogue for where to check tokens.
        service = self._add("service", {"type": "identity", "name": "keystone"}, token)
        place = {"service_id": service, "interface": "internal", "url": f"{self.url}/v3"}
        self._add("endpoint", place, token)

    def token(self, user: str, project: str) -> str:
        """Give a token as an operator's tool would get it."""
        default = {"domain": {"name": "Default"}}
        who = {"user": {"name": user, "password": PASSWORD, **default}}
        body = {
            "auth": {
                "identity": {"methods": ["password"], "password": who},
                "scope": {"project": {"name": project, **default}},
            }
        }
        request = _request("POST", f"{self.url}/v3/auth/tokens", None, json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=90) as answer:
            given: str = answer.headers["X-Subject-Token"]
        return given

    def revoke(self, token: str) -> None:
        """End a token before its time."""
        url = f"{self.url}/v3/auth/tokens"
        request = _request("DELETE", url, self.token("admin", "admin"), None)
        request.add_header("X-Subject-Token", token)
        urllib.request.urlopen(request, timeout=90).close()

    def _add(self, kind: str, what: dict[str, Any], token: str) -> str:
        made: str = ask("POST", f"{self.url}/v3/{kind}s", token, {kind: what})[kind]["id"]
        return made


class Glance(Server):
    """A Glance that asks a Keystone; `store` holds a file for each image, called by its id."""

    def __init__(self, folder: Path, keystone: Keystone, address: str = "127.0.0.1") -> None:
        shutil.copy(glance_database(), folder)
        (folder / "paste.ini").write_text(_PASTE)
        (folder / "glance-api.conf").write_text(_glance_conf(folder, keystone.url))
        self.store = folder / "store"
        self.keystone = keystone
        self._last: dict[str, int] = {}
        super().__init__(
            folder, "glance.wsgi.api:application", {"OS_GLANCE_CONFIG_DIR": str(folder)}, address
        )

    def wait(self) -> None:
        """Wait until it answers; the Keystone is up."""
        self._token = self.keystone.token("admin", "admin")
        wait_until(lambda: self.ask("GET", ""), "Glance", timeout=140)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Call the images' API as the administrator."""
        return ask(method, f"{self.url}/v2/images{path}", self._token, body)

    def upload(self, name: str, content: bytes | None, **more: str) -> str:
        """Make an image that all may see, the newest of its name; return its id.

        Glance tells when an image was made to the second, so the next of a name waits for one.
        """
        while int(time.time()) <= self._last.get(name, 0):
            time.sleep(0.05)
        described = {"disk_format": "qcow2", "container_format": "bare", "visibility": "public"}
        identity: str = self.ask("POST", "", {"name": name, **described, **more})["id"]
        self._last[name] = int(time.time())
        if content is not None:
            url = f"{self.url}/v2/images/{identity}/file"
            request = _request("PUT", url, self._token, content)
            request.add_header("Content-Type", "application/octet-stream")
            urllib.request.urlopen(request, timeout=90).close()
        return identity

    def clear(self) -> None:
        """Delete every image."""
        for image in self.ask("GET", "?limit=1000")["images"]:
            self.ask("DELETE", f"/{image['id']}")


def ask(method: str, url: str, token: str | None = None, body: Any = None) -> Any:
    """Call, and return the JSON of the answer, if there is one."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(_request(method, url, token, data), timeout=90) as answer:
        told = answer.read()
    return json.loads(told) if told else None


def _request(
    method: str, url: str, token: str | None, data: bytes | None
) -> urllib.request.Request:
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["X-Auth-Token"] = token
    return urllib.request.Request(url, data=data, headers=headers, method=method)
