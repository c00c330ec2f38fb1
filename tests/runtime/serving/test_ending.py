"""Clients that only listen, and loads that nobody waits for, hold nothing up and leave nothing behind."""

import asyncio
import queue
import signal
import threading
import time

import grpc as plain_grpc
import probes
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from json_schemas import check
from serving_process import WAIT_S, serving
from tritonclient import grpc

from resnetrt.errors import DeviceLost
from resnetrt.runtime.backends.onnxruntime import OnnxRuntimeSession
from resnetrt.runtime.serving import ModelSpec, ServeOptions
from resnetrt.runtime.serving.repository import Repository
from resnetrt.runtime.serving.server import Server

SERVICE = "inference.GRPCInferenceService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
ENGINE = ["--engine", "onnxruntime-fp32-cpu", "--threads", "1"]
PATIENCE_S = 40  # more than the test may take, less than the server would wait


def test_clients_that_only_listen_do_not_hold_up_the_end(labelled_bundle, tmp_path):
    patient = ["--exit-timeout-secs", str(2 * PATIENCE_S)]
    with (
        serving(tmp_path / "log", [labelled_bundle, *ENGINE, *patient]) as server,
        plain_grpc.insecure_channel(server.grpc) as channel,
        grpc.InferenceServerClient(server.grpc) as client,
    ):
        check("serve", server.ports)
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", SERVICE, SERVICE)]
        assert [next(watch).status for watch in watches] == [SERVING] * 3
        answers: queue.Queue = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(probes.MODEL, [probes.grpc_input(probes.IMAGES[:1])])
        assert answers.get(timeout=WAIT_S)[1] is None
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert [[reply.status for reply in watch] for watch in watches] == [[NOT_SERVING]] * 3
        assert server.process.wait(PATIENCE_S) == 0
        assert time.monotonic() - started < PATIENCE_S


def test_health_of_another_service_is_unknown(server):
    with plain_grpc.insecure_channel(server.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest()).status == SERVING
        with pytest.raises(plain_grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="other"))
        assert caught.value.code() is plain_grpc.StatusCode.NOT_FOUND
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="other"))
        assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        unknown.cancel()


def test_a_load_whose_client_has_gone_is_finished_and_kept(labelled_bundle):
    async def load_twice() -> int:
        options = ServeOptions(control=True, threads=1)
        repository = Repository([ModelSpec("tiny", labelled_bundle, "onnxruntime-fp32-cpu")], options)
        for _ in range(2):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(repository.load("tiny"), 0.001)
        for _ in range(WAIT_S * 20):
            if repository.entries["tiny"].loads == 2:
                break
            await asyncio.sleep(0.05)
        await repository.close()
        return repository.entries["tiny"].loads

    assert asyncio.run(load_twice()) == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("resnetrt-engine")]


def test_a_load_that_fails_is_logged_though_its_client_has_gone(labelled_bundle, caplog):
    async def load() -> None:
        repository = Repository([ModelSpec("tiny", labelled_bundle, "no-such-engine")], ServeOptions(control=True))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(repository.load("tiny"), 0.001)
        for _ in range(WAIT_S * 20):
            if caplog.records:
                break
            await asyncio.sleep(0.05)

    asyncio.run(load())
    assert "model tiny was not loaded: unknown engine" in caplog.text


def test_a_lost_gpu_makes_the_server_not_ready_and_ends_it(labelled_bundle, monkeypatch):
    """Only another process can use the GPU again, so whoever started this one has to hear of it."""
    options = ServeOptions(http_port=0, grpc_port=0, metrics_port=0, threads=1)
    server = Server([ModelSpec(probes.MODEL, labelled_bundle, "onnxruntime-fp32-cpu")], options)
    reason = "CUDA: cudaStreamSynchronize failed: cudaErrorIllegalAddress"

    async def lose() -> None:
        serving = asyncio.ensure_future(server.serve(lambda _: None))
        while not server._repository.ready:
            await asyncio.sleep(0.05)
        assert not serving.done()
        monkeypatch.setattr(OnnxRuntimeSession, "lost", reason)
        assert not server._repository.ready
        with pytest.raises(DeviceLost, match=reason):
            await asyncio.wait_for(serving, PATIENCE_S)

    asyncio.run(lose())
