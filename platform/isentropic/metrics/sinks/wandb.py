"""Weights & Biases on top of the JSONL record, and never in its way.

Only one process logs, the controller. Every call is guarded: the first that fails is reported once,
and W&B is off for the rest of the run. W&B's own process writes its record only every 15 s, so a
killed run has lost some steps there: a resumed run reads that record and logs what it lacks from
metrics.jsonl.

Limits were chosen from measurements with wandb 0.31: a server that hangs costs `PROBE_S` at the
start; one that dies in mid-run costs nothing until the end, and there `FINISH_S`.
"""

import http.client
import json
import os
import queue
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from isentropic.checks import is_secret_name, secret_values
from isentropic.config import TrackingConfig, method_name
from isentropic.folders import RAY_JOB, variable
from isentropic.metrics.classes import LABELS
from isentropic.metrics.entropy import ENTROPY_EDGES
from isentropic.metrics.report.samples import pick_samples
from isentropic.metrics.sinks.jsonl import read_lines
from isentropic.metrics.sinks.wandb_view import (
    HELD_OUT_VERSION,
    VERSION,
    can_make_views,
    save_view,
    version_of,
)

PROBE_S = 3.0  # for any answer of the server
INIT_S = 5.0
OFFLINE_INIT_S = 60.0  # it needs no network: only a busy machine makes it slow
FINISH_S = 10.0
MOST_TAG = 64  # characters: W&B refuses longer ones
# What the workspace shows, by section; W&B sorts sections by name. The metrics have their own names
# too, hidden, for those who read the record by program.
SECTIONS = {
    "1 entropy": {
        "mean": "entropy/mean",
        "trained on": "entropy/trained",
        "held-out": "eval/entropy",
    },
    "2 who moved it": {
        "measured": "ledger/measured",
        **{label: f"ledger/impulse/{key}" for key, label in LABELS.items() if key != "zero_adv"},
        "clipped low": "ledger/impulse/low",
        "clipped high": "ledger/impulse/high",
        "momentum": "ledger/momentum",
        "explained": "ledger/explained",
    },
    "3 reward": {
        "mean": "reward/mean",
        "held-out avg@k": "eval/avg_at_k",
        "held-out pass@k": "eval/pass_at_k",
    },
    "4 clip": {
        "low side": "clip/low_frac",
        "high side": "clip/high_frac",
        "gradient mass low": "grad_share/low",
        "gradient mass high": "grad_share/high",
    },
    "5 health": {
        "kl": "kl/k3",
        "grad norm max": "grad_norm/max",
        "engine mismatch": "mismatch/logprob_abs_max",
        "response tokens": "response/tokens_mean",
    },
    "6 speed": {
        "step seconds": "time/step_s",
        "rollout tokens per second": "throughput/rollout_tok_s",
        "learner tokens per second": "throughput/learner_tok_s",
    },
}
SHOWN = {
    key: f"{section}/{name}" for section, keys in SECTIONS.items() for name, key in keys.items()
}
SUMMARIES = {
    "entropy/mean": "min,max,last",
    "reward/mean": "max,last",
    "eval/avg_at_k": "max,last",
    "eval/pass_at_k": "max,last",
}
SAMPLE_COLUMNS = (
    "kind", "draw", "prompt", "response", "answer", "reward", "tokens", "fate",
)  # fmt: skip
SAMPLES = "7 samples/newest step"
VIEW_THREAD = "W&B's saved view"
STATE_FILE = "wandb_run.json"  # in the run folder: the W&B run id, and the last step sent


class WandbSink:
    """A run in W&B that continues across resumes under one id, each step logged once."""

    def __init__(
        self,
        tracking: TrackingConfig,
        *,
        folder: Path,
        run_name: str,
        config: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> None:
        """Starts, or continues, the W&B run of the run folder.

        Args:
            tracking: mode, project, entity, group, tags.
            folder: the run folder; W&B's own files go under folder/wandb.
            config: the resolved config; what looks like a secret is masked.
            warn: called once, with what failed.
        """
        self._warn = warn
        self._run: Any = None
        self._folder = folder
        self._state: dict[str, Any] = {"id": None, "last_step": -1}
        self._alerted = -1  # the last step whose alarms an earlier attempt has sent
        self.mode = tracking.wandb
        if self.mode != "disabled":
            self._guarded("start", lambda: self._start(tracking, run_name, without_secrets(config)))

    @property
    def where(self) -> str:
        """Where the curves are, for the banner."""
        if self._run is None:
            return "off"
        if self.mode == "online":
            return self._run.url
        folder = os.path.relpath(self._run.settings.sync_dir)
        folder = self._run.settings.sync_dir if folder.startswith("..") else folder
        return f"offline; upload with: wandb sync {folder}"

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Mirrors a line of metrics.jsonl; a step that a resume repeats is not logged twice."""
        if self._run is None:
            return
        if step > self._state["last_step"]:
            self._guarded("log", lambda: self._log(step, metrics))
        else:  # trained again: so far alarms have been sent
            self._alerted = self._state["last_step"]

    def log_alarm(self, record: dict[str, Any]) -> None:
        """Sends an alert for a raised alarm, except for steps that are trained again."""
        if self._run is None or record["state"] != "raised":
            return
        if record["step"] > self._alerted:
            level = {"error": "ERROR", "warning": "WARN"}.get(record["level"], "INFO")
            title = record["rule"].replace("_", " ")
            self._guarded("alert", lambda: self._run.alert(title, record["message"], level=level))

    def close(self, exit_code: int = 0) -> None:
        """Uploads what is left, for at most FINISH_S seconds.

        The local record is complete either way.
        """
        if self._run is not None:
            self._guarded("finish", lambda: self._run.finish(exit_code=exit_code))
            self._run = None

    def _start(self, tracking: TrackingConfig, run_name: str, config: dict[str, Any]) -> None:
        # W&B reports its own errors to its makers; if the server hangs, that delays the end of the
        # process by 10 s.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # Here and not at the top: it takes most of a second, and a run may not use it.
        import wandb

        state_path = self._folder / STATE_FILE
        resumed = state_path.exists()
        if resumed:
            self._state |= json.loads(state_path.read_text(encoding="utf-8"))
            written = last_recorded(self._folder, otherwise=self._state["last_step"])
            self._state["last_step"] = written
        self._state["id"] = self._state["id"] or uuid.uuid4().hex[:8]
        arguments = {
            "id": self._state["id"],
            "resume": "allow",
            "dir": str(self._folder),
            "project": tracking.project,
            "entity": tracking.entity,
            "group": tracking.group or " ".join(about(config)) or None,
            "tags": list(dict.fromkeys([*tracking.tags, *about(config)])),
            "job_type": "train",
            "name": run_name,
            "config": config,
        }
        if RAY_JOB in os.environ and "WANDB_SERVICE" not in os.environ:
            _service_apart()
        self._run = self._open(wandb, arguments)
        if self.mode == "online" and tracking.wandb_view == "auto" and can_make_views():
            # In a thread, because a slow server must not hold up the run; a daemon, nor its end.
            where = (self._run.entity, self._run.project)
            threading.Thread(
                target=self._save_view, args=where, name=VIEW_THREAD, daemon=True
            ).start()
        self._define_metrics()
        for line in read_lines(self._folder / "metrics.jsonl")[0] if resumed else ():
            if line["step"] > self._state["last_step"]:
                self._log(line["step"], line)
        self._save_state()

    def _define_metrics(self) -> None:
        for name in (VERSION, HELD_OUT_VERSION):
            self._run.define_metric(name)
        for glob in ("*", "eval/*"):
            self._run.define_metric(glob, step_metric=version_of(glob), hidden=True)
        for key, summary in SUMMARIES.items():
            self._run.define_metric(key, step_metric=version_of(key), summary=summary, hidden=True)
        for key, name in SHOWN.items():
            self._run.define_metric(name, step_metric=version_of(key))

    def _open(self, wandb: Any, arguments: dict[str, Any]) -> Any:
        """Opens the run online if the mode asks for it and the server answers, else offline."""
        if self.mode != "offline":
            reason = why_offline(wandb, need_key=self.mode == "auto")
            self.mode = "offline" if reason else "online"
            if reason:
                self._warn(f"W&B works offline: {reason}.")
        if self.mode == "online":
            try:
                return wandb.init(mode="online", settings=_settings(wandb, INIT_S), **arguments)
            except Exception as error:
                self._warn(f"W&B works offline: {type(error).__name__}: {_short(error)}")
                self.mode = "offline"
                # The failed run still holds its id: the offline run would not get it.
                wandb.teardown()
        return wandb.init(mode="offline", settings=_settings(wandb, OFFLINE_INIT_S), **arguments)

    def _log(self, step: int, metrics: dict[str, Any]) -> None:
        import wandb

        values = {name: value for name, value in metrics.items() if value is not None}
        values |= {SHOWN[name]: value for name, value in values.items() if name in SHOWN}
        if step > 0 and "eval/avg_at_k" in values and (rows := sample_rows(self._folder)):
            values[SAMPLES] = wandb.Table(columns=list(SAMPLE_COLUMNS), data=rows)
        histogram = values.pop("entropy/histogram", None)
        if histogram is not None and sum(histogram):
            bins = (histogram, list(ENTROPY_EDGES))
            values["entropy/histogram"] = wandb.Histogram(np_histogram=bins)
        self._run.log(values | {"step": step}, step=step, commit=True)
        self._state["last_step"] = step
        self._save_state()

    def _save_view(self, entity: str, project: str) -> None:
        """Makes the project's view if it has none; that it failed is one line, and no more."""
        try:
            save_view(entity, project, SECTIONS)
        except Exception as error:
            self._warn(
                f"W&B has no saved view of this project ({_short(error)}); the curves are there. "
                "tracking.wandb_view=never does not try."
            )

    def _save_state(self) -> None:
        path = self._folder / STATE_FILE
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._state), encoding="utf-8")
        os.replace(temporary, path)

    def _guarded(self, what: str, call: Callable[[], None]) -> None:
        """Calls W&B; what it raises never reaches the loop, and the first failure turns it off."""
        try:
            call()
        except Exception as error:
            self._run = None
            self._warn(
                f"W&B failed at {what} and is off from here on; metrics.jsonl has everything. "
                f"{_short(error)}"
            )


def about(config: Mapping[str, Any]) -> list[str]:
    """Returns the method, model and task of a run, as far as its config names them."""
    names = [method_name(config)]
    for section in ("model", "task"):
        part = config.get(section)
        names.append(str(part.get("name") or "") if isinstance(part, Mapping) else "")
    return [name[:MOST_TAG] for name in names if name]


def sample_rows(folder: Path) -> list[list[Any]]:
    """Returns the samples that the report shows, a row each; [] if the folder has none yet."""
    return [
        [
            kind,
            sample.draw,
            sample.messages,
            "\n".join(sample.responses),
            sample.answer,
            sample.reward,
            sample.tokens,
            sample.fate,
        ]
        for kind, samples in pick_samples(folder).kinds.items()
        for sample in samples
    ]


def _service_apart() -> None:
    """Starts W&B's process so that it is no descendant of this one.

    Ray sends a stopped job's descendants SIGTERM, and W&B's process would end before the run's last
    step. It ends by itself after a minute without a run. If it does not start here, W&B starts one
    of its own.
    """
    command = [sys.executable, "-m", "wandb", "beta", "core", "start", "--idle-timeout", "60s"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=OFFLINE_INIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return
    if done.returncode == 0:
        os.environ["WANDB_SERVICE"] = done.stdout.strip()


def last_recorded(folder: Path, otherwise: int) -> int:
    """Reads the last step in W&B's local records of the run folder, -1 if they hold none.

    Returns `otherwise` if there are no records or they cannot be read.
    """
    records = list(folder.glob("wandb/*run-*/*.wandb"))
    steps = [-1]
    for record in records:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(record)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=OFFLINE_INIT_S, check=True
            )
            rows = [json.loads(line) for line in done.stdout.splitlines()]
            steps += [row["history"]["item"]["step"] for row in rows if row["type"] == "history"]
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
            return otherwise
    return max(steps) if records else otherwise


def _settings(wandb: Any, init_timeout: float) -> Any:
    """Makes settings: nothing on the terminal, nothing of the machine beyond its load.

    Code and git state are left out: the run folder has them.
    """
    return wandb.Settings(
        reinit="create_new",  # a sweep has several runs in one process at once
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        x_save_requirements=False,
        init_timeout=init_timeout,
        finish_timeout=FINISH_S,
    )


def why_offline(wandb: Any, *, need_key: bool) -> str | None:
    """Says why a run cannot be online: no key, or no answer within PROBE_S. None if it can.

    W&B itself waits much longer for a server that hangs, and again when the process ends: so the
    server is tried first.
    """
    url = variable("WANDB_BASE_URL") or wandb.Settings().base_url
    if need_key and not (variable("WANDB_API_KEY") or _netrc_has(url)):
        return "there is no API key (set WANDB_API_KEY, or run `wandb login`)"
    answer: queue.Queue[str | None] = queue.Queue()
    # In a thread, because a DNS look-up has no timeout.
    threading.Thread(target=_probe, args=(url, answer), daemon=True).start()
    try:
        return answer.get(timeout=PROBE_S)
    except queue.Empty:
        return f"{url} gave no answer within {PROBE_S:g} s"


def _probe(url: str, answer: "queue.Queue[str | None]") -> None:
    """Puts None if the server answers, else what stood in the way; uses a proxy if one is set."""
    try:
        # The caller waits for less time than this.
        urllib.request.urlopen(url, timeout=2 * PROBE_S).close()
        answer.put(None)
    except urllib.error.HTTPError as error:
        # The server answers. That it refuses this page without a login does not matter.
        answer.put(None if error.code < 500 else f"{url} answers with error {error.code}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        answer.put(f"{url} cannot be reached ({_short(error)})")


def _netrc_has(url: str) -> bool:
    # A dependency of wandb; it honours NETRC.
    from requests.utils import get_netrc_auth

    return get_netrc_auth(url) is not None


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """Masks the values of keys that name a secret, and any secret of this environment."""
    hidden = set(secret_values().values())
    return {key: _masked(key, value, hidden) for key, value in config.items()}


def _masked(key: str, value: Any, hidden: set[str]) -> Any:
    if isinstance(value, Mapping):
        return {name: _masked(str(name), part, hidden) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(key, part, hidden) for part in value]
    if isinstance(value, str) and (
        is_secret_name(key) or any(secret in value for secret in hidden)
    ):
        return "<hidden>"
    return value


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
