import json
import sys
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

import pytest

from masam.errors import ResourceError
from masam.progress import Silent
from masam.runs.metrics import read_rows
from masam.training.config import TrainConfig
from masam.training.logs import open_logs, require_logs
from masam.training.run_folder import RunFolder

pytest.importorskip("mlflow")
# Of the packages that MLflow stands on.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Server(ThreadingHTTPServer):
    """What of MLflow's REST interface a run uses, and a record of what came."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.experiments, self.runs, self.calls = {}, {}, []
        self.metrics, self.params = defaultdict(list), {}
        self.is_down = False


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def answer(self, record, code=200):
        body = json.dumps(record).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.handle_call({})

    def do_POST(self):
        self.handle_call(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def handle_call(self, sent):
        server, call = self.server, urlparse(self.path).path.removeprefix("/api/2.0/mlflow/")
        server.calls.append(call)
        if server.is_down:
            self.answer({"error_code": "INTERNAL_ERROR", "message": "out of\norder"}, 400)
        elif call == "experiments/get-by-name":
            found = next(iter(server.experiments), None)
            missing = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}
            self.answer(
                {"experiment": {"experiment_id": found, "name": "x"}} if found else missing, 200 if found else 404
            )
        elif call == "experiments/create":
            server.experiments["7"] = sent["name"]
            self.answer({"experiment_id": "7"})
        elif call == "runs/create":
            server.runs["r1"] = "RUNNING"
            info = {"run_id": "r1", "run_uuid": "r1", "experiment_id": sent["experiment_id"], "status": "RUNNING"}
            self.answer({"run": {"info": {**info, "run_name": sent["run_name"], "start_time": 1}, "data": {}}})
        elif call == "runs/log-batch":
            for one in sent.get("metrics", []):
                server.metrics[one["key"]].append((one["step"], one["value"]))
            server.params |= {one["key"]: one["value"] for one in sent.get("params", [])}
            self.answer({})
        elif call in ("runs/update", "runs/get"):
            server.runs["r1"] = sent.get("status", server.runs["r1"])
            info = {"run_id": "r1", "run_uuid": "r1", "experiment_id": "7", "status": server.runs["r1"]}
            self.answer({"run_info": info, "run": {"info": info, "data": {}}})
        else:
            self.answer({"error_code": "ENDPOINT_NOT_FOUND", "message": call}, 404)


class Told(Silent):
    def __init__(self):
        self.lines = []

    def log(self, line):
        self.lines.append(line)


@pytest.fixture
def server(monkeypatch):
    one = Server()
    thread = threading.Thread(target=one.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{one.server_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield one
    one.shutdown()
    one.server_close()
    thread.join()


CONFIG = TrainConfig(mlflow="organs", epochs=3)


def fail_after(row, folder, told):
    with open_logs(folder, 0, told, CONFIG) as write_row:
        write_row(row)
        raise KeyError


def test_metrics_and_settings_are_sent_to_mlflow_and_a_resumed_run_continues_there(server, tmp_path):
    folder, told = RunFolder(tmp_path / "spleen"), Told()
    row = {"step": 2, "epoch": 1, "loss": 0.5, "dice.grey/white: 1": 0.25, "validation_dice": float("nan")}
    with pytest.raises(KeyError):
        fail_after(row, folder, told)
    assert server.experiments == {"7": "organs"}
    assert server.runs == {"r1": "FAILED"}
    assert server.metrics == {"epoch": [(2, 1)], "loss": [(2, 0.5)], "dice.grey/white_ 1": [(2, 0.25)]}
    assert (server.params["epochs"], server.params["model.fact_rank"]) == ("3", "32")
    with open_logs(folder, 2, told, CONFIG) as write_row:
        write_row({})
        write_row({"step": 4, "loss": 0.25})
    assert server.runs == {"r1": "FINISHED"}
    assert server.metrics["loss"] == [(2, 0.5), (4, 0.25)]
    assert server.calls.count("runs/create") == 1
    assert [row["step"] for row in read_rows(folder.metrics)] == ["2", "4"]
    assert told.lines == []


def test_a_failing_server_is_reported_once_and_not_used_again(server, tmp_path):
    folder, told = RunFolder(tmp_path / "spleen"), Told()
    with open_logs(folder, 0, told, CONFIG) as write_row:
        server.is_down = True
        for step in (1, 2, 3):
            write_row({"step": step, "loss": 0.5})
    (line,) = told.lines
    assert line.startswith("warning: MLflow failed, the run continues without it (")
    assert "out of order" in line
    assert [row["step"] for row in read_rows(folder.metrics)] == ["1", "2", "3"]


def test_without_mlflow_no_request_is_sent(server, tmp_path):
    with open_logs(RunFolder(tmp_path), 0, Silent(), TrainConfig()) as write_row:
        write_row({"step": 1, "loss": 0.5})
    with open_logs(None, 0, Silent(), CONFIG) as write_row:
        write_row({"step": 1, "loss": 0.5})
    assert server.calls == []
    assert (tmp_path / "metrics.csv").exists()


def test_a_missing_package_is_reported_before_the_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    require_logs(TrainConfig())
    message = r"^the setting mlflow requires mlflow, which is not installed \(.*\); pip install 'masam\[mlflow\]'$"
    with pytest.raises(ResourceError, match=message):
        require_logs(CONFIG)
