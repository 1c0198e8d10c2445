"""A stock gRPC client can find, list and health-check every service."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.running_stack import RunningStack

SERVICES = {
    "orchestrator": {
        "acestage.audio.v1.AudioService",
        "acestage.generation.v1.GenerationService",
        "acestage.lease.v1.LeaseService",
    },
    "text_encoder": {"acestage.text_encoder.v1.TextEncoderService", "acestage.stage.v1.StageService"},
    "dit": {"acestage.dit.v1.DitService", "acestage.stage.v1.StageService"},
    "vae": {"acestage.vae.v1.VaeService", "acestage.stage.v1.StageService"},
}


@pytest.mark.parametrize("service", SERVICES)
def test_reflection_lists_and_describes_the_services(turbo_stack: RunningStack, service: str) -> None:
    with grpc.insecure_channel(turbo_stack.address(service)) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        listed = set(database.get_services())
        assert listed >= SERVICES[service] | {"grpc.health.v1.Health"}
        for name in SERVICES[service]:
            methods = database.FindFileContainingSymbol(name).service
            assert any(found.method for found in methods)
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Symbol")
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=10)
        assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("service", SERVICES)
def test_health_is_told_for_the_server_and_for_each_service(turbo_stack: RunningStack, service: str) -> None:
    with grpc.insecure_channel(turbo_stack.address(service)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", *SERVICES[service]):
            response = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert response.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=10)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_stages_import_no_torch_in_their_grpc_process(turbo_stack: RunningStack) -> None:
    for stage in ("text_encoder", "dit", "vae"):
        process = turbo_stack.find("-m", f"services.{stage}")
        mapped = {region.path for region in process.memory_maps()}
        assert not any("libtorch" in path for path in mapped), stage
