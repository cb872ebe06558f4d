"""A KFP server over HTTP: who we are (a token, a pod's ServiceAccount, Dex), what we ask, what it refuses.

Source: Kubeflow Pipelines REST API v2beta1; the log of a pod still has its v1alpha1 address.
"""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from dfcore.errors import ConfigError, DataError, WorkFailed

__all__ = ["Credentials", "Endpoint"]

_IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
_IN_CLUSTER_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105  # a path
_SECONDS = 60
_TRIES = 4
_FORM = re.compile(r"<form[^>]*action=\"([^\"]+)\"")


class Credentials:
    """Who asks: a token from a file that is read each time, or a name and a password for Dex."""

    def __init__(
        self, token_file: Path | None = None, user: str | None = None, password: str | None = None
    ) -> None:
        """Take what is given; else a pod's projected token where there is one."""
        if (user is None) != (password is None):
            raise ConfigError("expected a user and a password for Dex, got only one; set KFP_PASSWORD too")
        default = Path(os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", _IN_CLUSTER_TOKEN))
        if token_file is None and user is None and default.is_file():
            token_file = default
        self.user, self.password, self._file = user, password, token_file

    def token(self) -> str | None:
        """Return the token as it is now: a projected one changes every hour.

        Raises:
            ConfigError: the file can't be read.
        """
        if self._file is None:
            return None
        try:
            return self._file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"expected a token in {self._file}, got: {error.strerror}") from error


class Endpoint:
    """One KFP server."""

    def __init__(self, address: str | None, credentials: Credentials) -> None:
        """Connect to an address, or from inside a cluster to its own server.

        Raises:
            ConfigError: no address, or not an http one.
        """
        if not address and os.environ.get("KUBERNETES_SERVICE_HOST"):
            address = _IN_CLUSTER
        if not address or urlsplit(address).scheme not in {"http", "https"}:
            raise ConfigError(
                f"expected a KFP server such as https://kubeflow.example.com/pipeline, got {address!r}; give "
                "--endpoint, or `endpoint` in the values"
            )
        self.address = address.rstrip("/")
        self._credentials = credentials
        self._session = requests.Session()
        self._signed_in = False

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return a document; a server that is away for a moment is asked again."""
        for attempt in range(_TRIES):
            try:
                return self._json(self._send("GET", path, query=query))
            except _Unavailable:
                if attempt == _TRIES - 1:
                    raise
                time.sleep(2**attempt / 4)
        raise AssertionError("the last try returns or raises")

    def post(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Create something; never sent twice."""
        return self._json(self._send("POST", path, document=document))

    def text(self, path: str) -> str:
        """Return a plain text, such as a log."""
        return self._send("GET", path).text

    def _json(self, answer: requests.Response) -> dict[str, Any]:
        try:
            document = answer.json()
        except ValueError as error:
            raise ConfigError(
                f"expected the KFP API at {self.address}, got {answer.headers.get('Content-Type')}; on "
                "Kubeflow its address ends in /pipeline"
            ) from error
        found: dict[str, Any] = document
        return found

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        document: Mapping[str, Any] | None = None,
    ) -> requests.Response:
        if self._credentials.user is not None and not self._signed_in:
            self._sign_in()
        token = self._credentials.token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            answer = self._session.request(
                method, f"{self.address}/{path}", params=query, json=document, headers=headers,
                timeout=_SECONDS, allow_redirects=False,
            )  # fmt: skip
        except requests.RequestException as error:
            raise _Unavailable(
                f"expected a KFP server at {self.address}, got: {_brief(error)}; check the address"
            ) from error
        return self._checked(answer, method, path)

    def _checked(self, answer: requests.Response, method: str, path: str) -> requests.Response:
        if answer.ok and not answer.is_redirect:
            return answer
        if answer.is_redirect:
            elsewhere = answer.headers["Location"].partition("?")[0]
            raise ConfigError(
                f"expected {self.address} to know us, got sent to {elsewhere}; give --token-file, or --user "
                "and KFP_PASSWORD for Dex"
            )
        said = _said(answer)
        if answer.status_code in {401, 403}:
            raise ConfigError(
                f"expected permission to {method} {path} at {self.address}, got HTTP {answer.status_code}: "
                f"{said}; give another token, or bind a role in the namespace"
            )
        if answer.status_code == 404:
            raise DataError(f"expected {path} at {self.address}, got: {said}")
        if answer.status_code in {502, 503, 504}:
            raise _Unavailable(f"expected {self.address} to answer, got HTTP {answer.status_code}: {said}")
        kind = ConfigError if answer.status_code < 500 else WorkFailed
        raise kind(f"expected {self.address} to {method} {path}, got HTTP {answer.status_code}: {said}")

    def _sign_in(self) -> None:
        """Follow the redirects to Dex's form, fill it in, and keep the session's cookie."""
        try:
            page = self._session.get(self.address, timeout=_SECONDS)
            form = _FORM.search(page.text)
            action = urljoin(page.url, form[1].replace("&amp;", "&")) if form else page.url
            filled = {"login": self._credentials.user, "password": self._credentials.password}
            answer = self._session.post(action, data=filled, timeout=_SECONDS)
        except requests.RequestException as error:
            raise _Unavailable(
                f"expected a login page at {self.address}, got: {_brief(error)}; check the address"
            ) from error
        if not answer.ok or 'name="password"' in answer.text:
            raise ConfigError(
                f"expected Dex to let {self._credentials.user} in, got its form again (HTTP "
                f"{answer.status_code}); check the user and KFP_PASSWORD"
            )
        self._signed_in = True


class _Unavailable(WorkFailed):
    """The server does not answer now."""


def _said(answer: requests.Response) -> str:
    try:
        document = answer.json()
    except ValueError:
        return answer.text.strip()[:300] or answer.reason
    return str(document.get("error_message") or document.get("message") or document)[:500]


def _brief(error: Exception) -> str:
    return str(error.args[0] if error.args else error)[:300]
