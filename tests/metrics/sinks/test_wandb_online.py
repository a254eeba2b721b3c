"""W&B online, against a loopback server with the part of its API that wandb 0.31 needs."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import wandb

from isentropic.config import TrackingConfig
from isentropic.metrics.sinks import wandb as wandb_sink

KEY = "c0ffee" * 6 + "abcd"  # of the right form, and nobody's


class WandbStub:
    """Collects the points of all runs in `history`, and the saved views of its one project."""

    def __init__(self):
        self.history = []
        self.views = {}  # name -> what was saved
        self.asked = []  # names of views
        self.takes_views = True
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.answer({})

            def do_PUT(self):
                self.body()
                self.answer({})

            def do_POST(self):
                body = json.loads(self.body() or b"{}")
                if "file_stream" in self.path:
                    files = body.get("files") or {}
                    lines = files.get("wandb-history.jsonl", {}).get("content", [])
                    stub.history += [json.loads(line) for line in lines]
                    self.answer({})
                else:
                    query, variables = body.get("query", ""), body.get("variables", {})
                    self.answer({"data": stub.graphql(query, variables)})

            def body(self):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def answer(self, content):
                data = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                pass  # a client that closes its connection

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def graphql(self, query, variables):
        if "allViews" in query:
            self.asked.append(variables["viewName"])
            found = self.views.get(variables["viewName"])
            edges = [{"node": {"id": "v"} | found}] if found else []
            return {"project": {"allViews": {"edges": edges}}}
        if "upsertView" in query:
            if not self.takes_views:
                return {}
            self.views[variables["name"]] = {key: variables[key] for key in ("displayName", "spec")}
            view = {"id": "v", "name": variables["name"]}
            return {"upsertView": {"view": view, "inserted": True}}
        return graphql(query, variables, self.url)

    def die(self):
        self.server.shutdown()
        self.server.server_close()


def graphql(query, variables, url):
    if "query Viewer" in query or "viewer" in query:
        return {"viewer": {"id": "u", "username": "e", "entity": "e", "flags": "{}"}}
    if "upsertBucket" in query:
        project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
        bucket = {"id": "x", "name": variables.get("name"), "displayName": "r", "config": "{}"}
        bucket["project"] = project
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    if "createRunFiles" in query:
        names = variables.get("files", [])
        files = [{"name": name, "uploadUrl": f"{url}/{name}"} for name in names]
        return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
    return {"serverInfo": {"features": []}} if "serverInfo" in query else {}


def open_sink(folder, view="never"):
    warnings = []
    tracking = TrackingConfig(
        wandb="auto",
        wandb_view=view,
        project="p",
        entity=None,
        group=None,
        tags=(),
        tensorboard=False,
        csv=False,
    )
    return wandb_sink.WandbSink(
        tracking, folder=folder, run_name="r", config={}, warn=warnings.append
    ), warnings


def line(step):
    return {"policy_version": 8 * step, "entropy/mean": 1 / (step + 1)}


@pytest.fixture
def server(monkeypatch):
    stub = WandbStub()
    monkeypatch.setenv("WANDB_BASE_URL", stub.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    wandb.teardown()  # it reads the address once per process
    yield stub
    wandb.teardown()
    stub.die()


def test_an_online_run_goes_on_after_a_resume_without_double_points(tmp_path, server):
    for steps in (range(4), range(2, 6)):
        sink, warnings = open_sink(tmp_path)
        for step in steps:
            sink.log(step, line(step))
        sink.close()
        assert sink.mode == "online" and warnings == []
    assert [point["policy_version"] for point in server.history] == [0, 8, 16, 24, 32, 40]


def test_a_server_that_dies_in_mid_run_holds_nothing_up(tmp_path, server, monkeypatch):
    monkeypatch.setattr(wandb_sink, "FINISH_S", 1.0)
    sink, _ = open_sink(tmp_path)
    sink.log(0, line(0))
    server.die()
    for step in range(1, 20):
        sink.log(step, line(step))
    sink.close()  # without a limit this waits for minutes
    (record,) = tmp_path.glob("wandb/run-*/*.wandb")
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(record)]
    written = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert written.count('"type":"history"') == 20


def log_a_run(folder):
    """Logs a run that may make a view, and waits until that is done."""
    sink, warnings = open_sink(folder, view="auto")
    sink.log(0, line(0))
    for thread in threading.enumerate():
        if thread.name == wandb_sink.VIEW_THREAD:
            thread.join(timeout=30)
    sink.close()
    return warnings


@pytest.fixture
def packages():
    pytest.importorskip("wandb_workspaces", reason="the extra `view` is not installed")


def test_a_view_is_made_once_per_project_and_left_as_the_user_made_it(tmp_path, server, packages):
    assert log_a_run(tmp_path / "a") == []
    (name,) = server.views
    assert name == "nw-isentropic-v"
    bank = json.loads(server.views[name]["spec"])["section"]["panelBankConfig"]
    shown = {
        section["name"]: [panel["config"]["metrics"] for panel in section["panels"]]
        for section in bank["sections"]
    }
    assert list(shown) == list(wandb_sink.SECTIONS) and next(iter(shown)) == "1 entropy"
    assert [key for keys in shown.values() for (key,) in keys] == list(wandb_sink.SHOWN.values())
    assert [section["isOpen"] for section in bank["sections"]] == [True] * 3 + [False] * 3

    # Changed to what the library can read, and to what it cannot.
    for changed in (server.views[name]["spec"].replace("1 entropy", "mine"), '{"section": {}}'):
        server.views[name]["spec"] = changed
        asked = len(server.asked)
        assert log_a_run(tmp_path / f"b{asked}") == []
        assert len(server.asked) == asked + 1 and server.views[name]["spec"] == changed


def test_a_view_that_cannot_be_saved_costs_one_line(tmp_path, server, packages):
    server.takes_views = False
    warnings = log_a_run(tmp_path)
    assert len(warnings) == 1 and "W&B has no saved view of this project" in warnings[0]
    assert [point["policy_version"] for point in server.history] == [0]


def test_a_run_that_wants_no_view_asks_for_none(tmp_path, server):
    sink, warnings = open_sink(tmp_path, view="never")
    sink.close()
    assert (server.asked, warnings) == ([], [])
