"""Probes of health, metadata, statistics and the repository."""

import time

from probing import IMAGES, MODEL, Answer, Target, fault_of, grpc_input, http_input, logits, probe


@probe
def live_and_ready_over_http(target: Target) -> Answer:
    return [target.http.is_server_live(), target.http.is_server_ready(), target.http.is_model_ready(MODEL)]


@probe
def live_and_ready_over_grpc(target: Target) -> Answer:
    return [target.grpc.is_server_live(), target.grpc.is_server_ready(), target.grpc.is_model_ready(MODEL, "1")]


@probe
def grpc_health_service(target: Target) -> Answer:
    import grpc as rpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with rpc.insecure_channel(target.grpc_url) as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30).status


@probe
def an_unknown_model_is_not_ready(target: Target) -> Answer:
    return target.http.is_model_ready("nothing")


@probe
def server_metadata_has_the_fields(target: Target) -> Answer:
    return sorted(target.http.get_server_metadata())


@probe
def needed_extensions_are_listed(target: Target) -> Answer:
    needed = {"classification", "model_configuration", "statistics", "binary_tensor_data", "system_shared_memory"}
    return sorted(needed & set(target.http.get_server_metadata()["extensions"]))


@probe
def extensions_over_grpc_are_those_of_http(target: Target) -> Answer:
    extensions = set(target.grpc.get_server_metadata().extensions)
    return extensions == set(target.http.get_server_metadata()["extensions"])


@probe
def model_metadata_over_http(target: Target) -> Answer:
    metadata = target.http.get_model_metadata(MODEL)
    return {key: metadata[key] for key in ("name", "versions", "inputs", "outputs")}


@probe
def model_metadata_over_grpc(target: Target) -> Answer:
    metadata = target.grpc.get_model_metadata(MODEL, "1", as_json=True)
    return {key: metadata[key] for key in ("name", "versions", "inputs", "outputs")}


@probe
def metadata_of_a_version(target: Target) -> Answer:
    return target.http.get_model_metadata(MODEL, "1")["name"]


@probe
def metadata_of_an_unknown_version(target: Target) -> Answer:
    return [
        fault_of(lambda: target.http.get_model_metadata(MODEL, "7")),
        fault_of(lambda: target.grpc.get_model_metadata(MODEL, "7")),
    ]


@probe
def config_over_http(target: Target) -> Answer:
    config = target.http.get_model_config(MODEL)
    return [
        config["name"],
        config["max_batch_size"],
        [(item["name"], item["data_type"], item["dims"]) for item in config["input"] + config["output"]],
        "preferred_batch_size" in config["dynamic_batching"],
    ]


@probe
def config_over_grpc(target: Target) -> Answer:
    config = target.grpc.get_model_config(MODEL).config
    return [
        config.name,
        config.max_batch_size,
        [(item.name, item.data_type, list(item.dims)) for item in [*config.input, *config.output]],
    ]


@probe
def statistics_count_requests_images_and_batches(target: Target) -> Answer:
    before = target.http.get_inference_statistics(MODEL)["model_stats"][0]
    target.http.infer(MODEL, [http_input()])
    after = target.grpc.get_inference_statistics(MODEL).model_stats[0]
    stats = after.inference_stats
    steps = {getattr(stats, name).count for name in ("queue", "compute_input", "compute_infer", "compute_output")}
    return [
        after.inference_count - before["inference_count"],
        after.execution_count - before["execution_count"],
        stats.success.count - before["inference_stats"]["success"]["count"],
        len(steps),
        sorted(before),
        sorted(before["inference_stats"]),
        [row.batch_size for row in after.batch_stats if row.batch_size == len(IMAGES)],
    ]


@probe
def statistics_of_all_models(target: Target) -> Answer:
    return [row["name"] for row in target.http.get_inference_statistics()["model_stats"]]


@probe
def repository_index(target: Target) -> Answer:
    rows = target.http.get_model_repository_index()
    over_grpc = target.grpc.get_model_repository_index().models
    return [[(row["name"], row["version"], row["state"]) for row in rows], [(row.name, row.state) for row in over_grpc]]


@probe
def load_again_and_answer(target: Target) -> Answer:
    target.http.load_model(MODEL)
    over_http = logits(target.http.infer(MODEL, [http_input()]))
    target.grpc.load_model(MODEL)
    return [over_http, logits(target.grpc.infer(MODEL, [grpc_input()]))]


@probe
def unload_and_load(target: Target) -> Answer:
    target.http.unload_model(MODEL)
    states = ["UNLOADING"]
    while states == ["UNLOADING"]:  # Triton answers before it is done
        time.sleep(0.05)
        states = [row["state"] for row in target.http.get_model_repository_index()]
    gone = [target.http.is_model_ready(MODEL), target.http.is_server_ready()]
    refused = fault_of(lambda: target.http.infer(MODEL, [http_input()]))
    target.http.load_model(MODEL)
    return [gone, states, refused != "no fault", target.http.is_model_ready(MODEL)]


@probe
def load_an_unknown_model(target: Target) -> Answer:
    return [fault_of(lambda: target.http.load_model("nothing")) != "no fault", target.http.is_model_ready(MODEL)]
