"""Faults of clients, engines and the process itself, against real servers."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import bare_http
import numpy as np
import probes
import pytest
import tiny_bundle
from serving_process import WAIT_S, serving
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

from resnetrt.bundle import Bundle

INFER = f"/v2/models/{probes.MODEL}/infer"
ENGINE = ["--engine", "onnxruntime-fp32-cpu", "--threads", "1", "--exit-timeout-secs", "10"]
LOGITS = tiny_bundle.reference(probes.IMAGES)


def head_of(length: object, *more: str) -> bytes:
    lines = [f"POST {INFER} HTTP/1.1", "Host: x", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def status_of(answer: bytes) -> int | None:
    return int(answer.split()[1]) if answer else None


def await_metric(server, name: str, value: float) -> None:
    for _ in range(WAIT_S * 20):
        if server.scrape().get(name) == value:
            return
        time.sleep(0.05)
    raise AssertionError(f"{name} is {server.scrape().get(name)}, expected {value}")


def outcome(name: str) -> str:
    return f'resnetrt_requests_without_output_total{{model="tiny",outcome="{name}"}}'


# requests that are too large, too small, too slow


def test_a_truncated_body_is_no_fault_of_the_server(server):
    assert status_of(bare_http.raw(server.http, head_of(1000) + b"{")) in (None, 400)
    assert bare_http.request(server.http, "GET", "/v2/health/ready")[0] == 200


@pytest.mark.parametrize("more", [(), ("Transfer-Encoding: chunked",)], ids=["length", "chunked"])
def test_an_oversized_body_is_413(server, more):
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    blob = head_of(65 << 20) if not more else head_of(0, *more).replace(b"Content-Length: 0\r\n", b"") + chunk * 65
    with socket.create_connection(server.http.split(":"), 30) as connection:
        connection.settimeout(30)
        sender = threading.Thread(target=lambda: _send(connection, blob), daemon=True)
        sender.start()
        assert status_of(connection.recv(65536)) == 413


def _send(connection: socket.socket, blob: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(blob)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_unpacks_to_too_much_is_413(server, encoding):
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(65)) + packer.flush()
    assert len(bomb) < 1 << 20
    assert bare_http.request(server.http, "POST", INFER, bomb, {"Content-Encoding": encoding})[0] == 413


def test_a_compressed_body_that_is_cut_off_or_goes_on_is_400(server):
    body = zlib.compress(json.dumps(probes.head()).encode())
    for blob in (body[:-5], body + b"more"):
        assert bare_http.request(server.http, "POST", INFER, blob, {"Content-Encoding": "deflate"})[0] == 400


def test_an_oversized_message_over_grpc_is_refused_packed_or_not(server):
    image = np.zeros((6000, 3, 16, 16), np.float32)  # 18 MB packs to little
    for packing, count in (("gzip", 4), (None, 4)):
        large = np.concatenate([image] * count)
        with grpc.InferenceServerClient(server.grpc) as client, pytest.raises(InferenceServerException) as caught:
            client.infer(probes.MODEL, [probes.grpc_input(large)], compression_algorithm=packing)
        assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_a_head_without_end_is_400(server):
    assert status_of(bare_http.raw(server.http, b"GET /v2 HTTP/1.1\r\nX: " + b"x" * 70_000, finish=False)) == 400


def test_an_unknown_encoding_is_415(server):
    assert bare_http.request(server.http, "POST", INFER, b"{}", {"Content-Encoding": "br"})[0] == 415


def test_slow_clients_are_cut_off_and_others_served(labelled_bundle, tmp_path):
    options = ["--head-timeout-secs", "0.5", "--body-timeout-secs", "0.5"]
    with serving(tmp_path / "log", [labelled_bundle, *ENGINE, *options]) as server:
        slow = [_slow(server.http, b"GET /v2 HT"), _slow(server.http, head_of(100) + b"{"), _slow(server.http, b"")]
        again = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"
        slow.append(_slow(server.http, again + b"GET"))
        assert bare_http.request(server.http, "GET", "/v2/health/ready")[0] == 200
        answers = []
        for connection in slow:
            with connection:
                answers.append(_all_of(connection))
    assert answers[0] == b""
    assert answers[1].startswith(b"HTTP/1.1 408")
    assert answers[2] == b""
    assert answers[3].startswith(b"HTTP/1.1 200")


def _slow(url: str, blob: bytes) -> socket.socket:
    host, port = url.split(":")
    connection = socket.create_connection((host, int(port)), WAIT_S)
    connection.sendall(blob)
    return connection


def _all_of(connection: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


def test_json_can_not_hold_what_is_no_number(server):
    huge = probes.head(data=[3e38] * probes.IMAGES[0].size)
    status, _, body = bare_http.request(server.http, "POST", INFER, json.dumps(huge).encode())
    assert status == 400
    assert "NaN or infinite values, which JSON can't hold; ask for binary_data" in json.loads(body)["error"]


# the queue


@pytest.fixture(scope="module")
def holding(labelled_bundle, tmp_path_factory):
    """A server that holds a request for three seconds, in the hope of more, and queues two."""
    options = ["--max-queue-delay-microseconds", "3000000", "--max-queue-size", "2"]
    with serving(tmp_path_factory.mktemp("holding") / "log", [labelled_bundle, *ENGINE, *options]) as server:
        yield server


def test_deadlines_cancelled_requests_and_a_full_queue(holding):
    one = probes.IMAGES[:1]
    with grpc.InferenceServerClient(holding.grpc) as client:
        client.infer(probes.MODEL, [probes.grpc_input(one)], client_timeout=1)  # is held for half of that
        client.infer(probes.MODEL, [probes.grpc_input(one)], timeout=200_000)
        with pytest.raises(InferenceServerException) as caught:
            client.infer(probes.MODEL, [probes.grpc_input(one)], timeout=1)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    body = json.dumps(probes.head() | {"parameters": {"timeout": 1}}).encode()
    assert bare_http.request(holding.http, "POST", INFER, body)[0] == 504
    body = json.dumps(probes.head()).encode()
    gone = _slow(holding.http, head_of(len(body)) + body)
    await_metric(holding, 'nv_inference_pending_request_count{model="tiny",version="1"}', 1)
    gone.close()
    await_metric(holding, outcome("cancelled"), 1)
    assert holding.scrape()[outcome("expired")] == 2
    waiting = [_slow(holding.http, head_of(len(body)) + body) for _ in range(2)]
    await_metric(holding, 'nv_inference_pending_request_count{model="tiny",version="1"}', 2)
    assert bare_http.request(holding.http, "POST", INFER, body)[0] == 503
    for connection in waiting:
        with connection:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert holding.scrape()['nv_inference_count{model="tiny",version="1"}'] == 4
    assert holding.scrape()['resnetrt_batches_total{batch_size="2",model="tiny"}'] == 1


# the engine


@pytest.fixture
def broken_int8(bundle):
    """A bundle whose INT8 engine computes nonsense."""
    record = bundle.manifest.engines["onnxruntime-int8-cpu"]
    weight = tiny_bundle.quantized_weight(bundle, "fc.w")
    tiny_bundle.flip_bits(bundle, record.file, weight, 0x7F, 1)
    return Bundle.open(bundle.path)


def test_an_engine_that_fails_its_self_test_is_replaced_and_told(broken_int8, tmp_path):
    with serving(tmp_path / "log", [broken_int8.path, "--engine", "onnxruntime-int8-cpu", "--threads", "1"]) as server:
        ready = json.loads(bare_http.request(server.http, "GET", "/v2/health/ready")[2])["models"]["tiny"]
        assert ready["engine"] == "onnxruntime-fp32-cpu"
        assert "onnxruntime-int8-cpu" in ready["fallbacks"][0]
        scraped = server.scrape()
        info = [name for name in scraped if name.startswith("resnetrt_engine_info")]
        assert len(info) == 1
        assert 'precision="fp32"' in info[0]
        assert scraped['resnetrt_engine_fallbacks{model="tiny"}'] == 1
        with grpc.InferenceServerClient(server.grpc) as client:
            parameters = client.get_model_config("tiny").config.parameters
            assert parameters["engine"].string_value == "onnxruntime-fp32-cpu"
            assert "onnxruntime-int8-cpu" in parameters["fallbacks"].string_value


def test_without_fallback_the_server_does_not_start(broken_int8, tmp_path):
    arguments = [broken_int8.path, "--engine", "onnxruntime-int8-cpu", "--no-fallback"]
    with serving(tmp_path / "log", arguments, ready=False) as server:
        assert server.process.wait(WAIT_S) == 1
    assert "onnxruntime-int8-cpu" in (tmp_path / "log").read_text().splitlines()[-1]


# the process


class Load:
    """Clients that ask without a break, over HTTP and gRPC, and count what they get."""

    def __init__(self, server, clients: int = 2) -> None:
        self._server, self._stop = server, threading.Event()
        self.good, self.refused, self.wrong = 0, 0, []
        self._pool = ThreadPoolExecutor(2 * clients)
        self._lock = threading.Lock()
        self._done = [self._pool.submit(self._drive, kind) for kind in (http, grpc) * clients]

    def _drive(self, module) -> None:
        url = self._server.http if module is http else self._server.grpc
        tensor = probes.http_input() if module is http else probes.grpc_input()
        client = module.InferenceServerClient(url)
        while not self._stop.is_set():
            try:
                logits = client.infer(probes.MODEL, [tensor]).as_numpy(probes.OUTPUT)
            except InferenceServerException as error:
                refused = error.status() in ("StatusCode.UNAVAILABLE", "StatusCode.CANCELLED")
                self._count(refused, None if refused else str(error))
            except (OSError, EOFError) as error:
                self._count(True, None if isinstance(error, ConnectionError) else repr(error))
            except Exception as error:  # geventhttpclient has types of its own for a connection that ends
                self._count(True, None if "onnection" in repr(error) else repr(error))
            else:
                ok = np.allclose(logits, LOGITS, rtol=1e-3, atol=1e-3)
                self._count(False, None if ok else "wrong numbers")

    def _count(self, refused: bool, fault: str | None) -> None:
        with self._lock:
            if fault is not None:
                self.wrong.append(fault)
            elif refused:
                self.refused += 1
            else:
                self.good += 1
        if refused:
            time.sleep(0.02)

    def await_good(self, count: int) -> None:
        for _ in range(WAIT_S * 50):
            if self.good >= count:
                return
            time.sleep(0.02)
        raise AssertionError(f"only {self.good} of {count} answers; {self.wrong[:3]}")

    def __enter__(self) -> "Load":
        self.await_good(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()


def test_loading_again_under_load_loses_nothing(labelled_bundle, tmp_path):
    arguments = [labelled_bundle, *ENGINE, "--model-control-mode", "explicit"]
    with serving(tmp_path / "log", arguments) as server, Load(server) as load:
        for _ in range(5):
            before = load.good
            assert bare_http.request(server.http, "POST", "/v2/repository/models/tiny/load")[0] == 200
            load.await_good(before + 5)
        assert (load.refused, load.wrong) == (0, [])
        assert server.scrape()['resnetrt_model_loads_total{model="tiny"}'] == 6


def test_a_bundle_that_went_bad_leaves_the_old_engine_in_service(labelled_bundle, bundle, tmp_path):
    with serving(tmp_path / "log", [bundle.path, *ENGINE, "--model-control-mode", "explicit"]) as server:
        (bundle.path / "golden.safetensors").write_bytes(b"damaged")
        status, _, answer = bare_http.request(server.http, "POST", "/v2/repository/models/tiny/load")
        assert status == 400
        assert "golden.safetensors" in json.loads(answer)["error"]
        assert bare_http.request(server.http, "POST", INFER, json.dumps(probes.head()).encode())[0] == 200


def test_sigterm_under_load_answers_what_was_accepted(labelled_bundle, tmp_path):
    with serving(tmp_path / "log", [labelled_bundle, *ENGINE]) as server, Load(server) as load:
        assert server.end(signal.SIGTERM) == 0
    assert load.wrong == []
    assert [row["message"] for row in server.logged()][-2:] == ["draining", "stopped"]


def test_a_second_signal_ends_at_once(labelled_bundle, tmp_path):
    options = ["--engine", "onnxruntime-fp32-cpu", "--threads", "1"]
    body = json.dumps(probes.head()).encode()
    arguments = [labelled_bundle, *options, "--exit-timeout-secs", "60"]
    # the slow request, whose body never comes, holds the end up
    with serving(tmp_path / "log", arguments) as server, _slow(server.http, head_of(len(body)) + body[:-1]):
        assert bare_http.request(server.http, "GET", "/v2/health/live")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        while not any(row["message"] == "draining" for row in server.logged()):
            time.sleep(0.02)
        assert server.process.poll() is None
        assert server.end(signal.SIGTERM) == 128 + signal.SIGTERM


def test_kill_9_under_load_gives_no_wrong_answer_and_the_bundle_stays_whole(labelled_bundle, tmp_path):
    with serving(tmp_path / "log", [labelled_bundle, *ENGINE]) as server, Load(server) as load:
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        before = load.refused
        while load.refused < before + 4:
            time.sleep(0.01)
    # a process that is gone can leave half an answer, which the client must see as such
    assert [fault for fault in load.wrong if "Incomplete response" not in fault] == []
    with serving(tmp_path / "again", [labelled_bundle, *ENGINE]) as server:
        logits = probes.ask("binary_in_and_out", probes.Target(server.http, server.grpc))
    np.testing.assert_allclose(logits, LOGITS, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port", "--metrics-port"])
def test_a_port_that_is_taken_is_one_line_and_exit_code_4(labelled_bundle, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"--http-port": 0, "--grpc-port": 0, "--metrics-port": 0, option: taken.getsockname()[1]}
        arguments = [text for pair in ports.items() for text in map(str, pair)]
        command = [sys.executable, "-m", "resnetrt.cli", "serve", str(labelled_bundle), *ENGINE, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert done.returncode == 4, done.stderr
    assert f"{option}: can't listen on 127.0.0.1:" in done.stderr.splitlines()[-1]
