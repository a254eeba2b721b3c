"""The job API of one cluster: reached within seconds or refused; its token; the log of a job."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.job_submission import JobDetails, JobSubmissionClient

from isentropic.experiments.program import FAULT, RESUMABLE
from isentropic.folders import variable

ANSWER_S = 5.0
POLL_S = 0.5
RETRY_S = 3.0  # between attempts to reach a cluster that had answered before
GIVE_UP_S = 120.0
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
HINT = (
    "address= is the dashboard's, http://<head>:8265 (not port 6379 or 10001); on Kubernetes: "
    "kubectl port-forward service/<cluster>-head-svc 8265, then address=http://127.0.0.1:8265."
)
HOW_TO_TOKEN = (
    "Give the cluster's token as RAY_AUTH_TOKEN=<token>, as RAY_AUTH_TOKEN_PATH=<file>, or in "
    "~/.ray/auth_token. KubeRay keeps it in a Secret named after the cluster: kubectl get secret "
    "<cluster> -o jsonpath={.data.auth_token} | base64 -d"
)

# They report each upload and each connection.
for module in ("dashboard_sdk", "job.sdk"):
    logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)


def connect(address: str | None) -> JobSubmissionClient:
    """Return a client that was answered. `address` is the dashboard's: http(s)://host:8265.

    A token is sent to a cluster that asks for one (401), unless RAY_AUTH_MODE=disabled.
    Raises ValueError if nobody answers, the answer is not Ray's, or the token is missing or
    wrong.
    """
    url = _url(address or _default_address())
    status, headers = _probe(url, {}), {}
    if status == 401 and os.environ.get("RAY_AUTH_MODE") != "disabled":
        # Given here: Ray read RAY_AUTH_MODE when it was imported.
        headers = {"Authorization": f"Bearer {_token(url)}"}
        status = _probe(url, headers)
    if status == 401:
        off = (
            " RAY_AUTH_MODE=disabled is set here: unset it."
            if os.environ.get("RAY_AUTH_MODE") == "disabled"
            else ""
        )
        raise ValueError(f"the cluster at {url} wants a token (401).{off} {HOW_TO_TOKEN}")
    if status == 403:
        raise ValueError(
            f"the cluster at {url} refuses this token (403): it is another cluster's. "
            f"{HOW_TO_TOKEN}"
        )
    if status != 200:
        raise ValueError(
            f"{url} answers {status} to /api/version, which is no Ray dashboard. {HINT}"
        )
    # Ray lets these win over the address that it is given.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    return JobSubmissionClient(url, headers=headers)


def _url(address: str) -> str:
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url)
    try:
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"--address {address} is not an address of a dashboard. {HINT}")
    return url.rstrip("/")


def _default_address() -> str:
    """Return the address that `ray job submit` would take, if it is a dashboard's."""
    ray_address = variable("RAY_ADDRESS") or ""
    return (
        variable("RAY_API_SERVER_ADDRESS")
        or (ray_address if ray_address.startswith(("http://", "https://")) else None)
        or DEFAULT_ADDRESS
    )


def _probe(url: str, headers: dict[str, str]) -> int:
    """Return the status of /api/version."""
    try:
        return requests.get(f"{url}/api/version", headers=headers, timeout=ANSWER_S).status_code
    except requests.Timeout as error:
        raise ValueError(f"{url} gave no answer within {ANSWER_S:g} s. {HINT}") from error
    except (requests.RequestException, UnicodeError) as error:
        raise ValueError(f"no Ray dashboard answers at {url} ({_reason(error)}). {HINT}") from error


def _token(url: str) -> str:
    """Return the token, from where Ray looks for it."""
    if token := (variable("RAY_AUTH_TOKEN") or "").strip():
        return token
    path = Path(variable("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError:
        token = ""
    if not token:
        raise ValueError(
            f"the cluster at {url} wants a token (401), and {path} has none. {HOW_TO_TOKEN}"
        )
    return token


def _reason(error: Exception) -> str:
    text = str(error)
    for sign, reason in (
        ("refused", "connection refused"),
        ("resolve", "unknown host"),
        ("Name or service", "unknown host"),
        ("CERTIFICATE", "its certificate is not trusted"),
        ("unreachable", "network unreachable"),
    ):
        if sign in text:
            return reason
    return text.splitlines()[0][:160] if text else type(error).__name__


def job(client: JobSubmissionClient, name: str) -> JobDetails:
    """Return what the cluster knows of a job. Raises ValueError if it knows none of that name."""
    try:
        return client.get_job_info(name)
    except RuntimeError as error:
        if "404" not in str(error):
            raise
        raise ValueError(f"the cluster has no job {name!r}. `list` shows its jobs.") from error


def follow(client: JobSubmissionClient, name: str, write: Callable[[str], None]) -> JobDetails:
    """Write a job's log from its start to its end, and return how it ended.

    A connection that breaks is made again, without writing a line twice.
    Raises ConnectionError if the cluster is gone for GIVE_UP_S.
    """
    shown, last_answer = 0, time.monotonic()
    while True:
        try:
            shown = asyncio.run(_tail(client, name, shown, write))
            last_answer = time.monotonic()
            if (details := client.get_job_info(name)).status in ENDED:
                rest = client.get_job_logs(name)
                write(rest[shown:])
                return details
            time.sleep(POLL_S)
        except _Broken as broken:
            shown = broken.shown
            time.sleep(POLL_S)
        except (aiohttp.ClientError, requests.RequestException, RuntimeError) as error:
            if time.monotonic() - last_answer > GIVE_UP_S:
                raise ConnectionError(
                    f"the cluster gave no answer for {GIVE_UP_S:g} s: {_reason(error)}"
                ) from error
            time.sleep(RETRY_S)


class _Broken(Exception):
    """The connection ended in the middle of a log; `shown` characters had been written."""

    def __init__(self, shown: int) -> None:
        super().__init__(shown)
        self.shown = shown


async def _tail(
    client: JobSubmissionClient, name: str, shown: int, write: Callable[[str], None]
) -> int:
    """Write what comes after the first `shown` characters; return how many the log has by now."""
    seen = 0
    try:
        async for text in client.tail_job_logs(name):
            write(text[max(shown - seen, 0) :])
            seen += len(text)
    except (aiohttp.ClientError, RuntimeError):
        if seen > shown:
            raise _Broken(seen) from None
        raise
    return max(seen, shown)


def exit_code(details: JobDetails) -> int:
    """Return the job's own exit code; 75, resumable, if it was stopped."""
    if details.status == "STOPPED":
        return RESUMABLE
    if details.status == "SUCCEEDED":
        return details.driver_exit_code or 0
    return details.driver_exit_code or FAULT
