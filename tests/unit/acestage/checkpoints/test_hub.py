from __future__ import annotations

import hashlib
import json
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import monotonic
from urllib.parse import unquote, urlsplit

import pytest

from acestage.checkpoints import REPOSITORIES, hub, open_checkpoint, pull
from acestage.errors import CheckpointError, NotFoundError, UnavailableError
from scripts.random_checkpoint import write_checkpoint

REVISION = "0123456789abcdef0123456789abcdef01234567"
MAIN = "ACE-Step/Ace-Step1.5"


@dataclass
class FakeHub:
    """Enough of the Hub's API to download from, with real HTTP.

    Attributes:
        repositories: bytes by path in the repository, by repository.
        sent: how often each file was sent.
    """

    repositories: dict[str, dict[str, bytes]]
    endpoint: str = ""
    sent: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def serving(self) -> Iterator[FakeHub]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path).removeprefix("/")
        for repo_id, files in self.repositories.items():
            if path == f"api/models/{repo_id}":
                return self._send_json(request, {"id": repo_id, "sha": REVISION, "siblings": []})
            if path.startswith(f"api/models/{repo_id}/tree/"):
                return self._send_json(request, [_entry(name, data) for name, data in files.items()])
            name = path.removeprefix(f"{repo_id}/resolve/{REVISION}/")
            if name in files:
                if request.command == "GET":
                    self.sent[f"{repo_id}/{name}"] += 1
                return self._send(request, files[name], {"ETag": f'"{_digest(files[name])}"'})
        self._send(request, b"", {"X-Error-Code": "RepoNotFound"}, status=404)

    def _send_json(self, request: BaseHTTPRequestHandler, value: object) -> None:
        self._send(request, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self, request: BaseHTTPRequestHandler, data: bytes, headers: dict[str, str], status: int = 200
    ) -> None:
        request.send_response(status)
        for key, value in {**headers, "X-Repo-Commit": REVISION, "Content-Length": str(len(data))}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(data)


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _entry(name: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(data), "oid": _digest(data)}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The main repository, with a language model and code beside what is needed, and two others."""
    folder = tmp_path_factory.mktemp("published")
    write_checkpoint(folder / "main", layout="original")
    base = write_checkpoint(folder / "base", layout="original", variant="base", shard_count=2)
    write_checkpoint(folder / "pipeline", size="tiny-xl")
    beside = {"README.md": b"# Model", "modeling_acestep_v15.py": b"raise SystemExit"}
    return {
        MAIN: {
            **files_of(folder / "main"),
            **beside,
            "acestep-v15-turbo/modeling_acestep_v15_turbo.py": b"raise SystemExit",
            "acestep-5Hz-lm-1.7B/model.safetensors": b"large",
        },
        "ACE-Step/acestep-v15-base": {**files_of(base), **beside},
        "ACE-Step/acestep-v15-xl-turbo-diffusers": {**files_of(folder / "pipeline"), **beside},
    }


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers here are local, so they are to be reached even where the Hub is switched off."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def fake_hub(published: dict[str, dict[str, bytes]]) -> Iterator[FakeHub]:
    with FakeHub({repo_id: dict(files) for repo_id, files in published.items()}).serving() as hub:
        yield hub


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def dead_endpoint() -> str:
    """An address that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def names_in(folder: Path) -> set[str]:
    return {name for name in files_of(folder) if "/.cache/" not in f"/{name}"}


def test_turbo_is_pulled_without_code_and_language_model(fake_hub: FakeHub, tmp_path: Path) -> None:
    path = pull("turbo", tmp_path, endpoint=fake_hub.endpoint)

    assert path == tmp_path / "acestep-v15-turbo"
    assert open_checkpoint("turbo", checkpoints_dir=tmp_path).name == "acestep-v15-turbo"
    assert names_in(tmp_path) == {
        "acestep-v15-turbo/config.json",
        "acestep-v15-turbo/model.safetensors",
        "acestep-v15-turbo/silence_latent.pt",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "Qwen3-Embedding-0.6B/config.json",
        "Qwen3-Embedding-0.6B/model.safetensors",
        "Qwen3-Embedding-0.6B/tokenizer.json",
        "Qwen3-Embedding-0.6B/tokenizer_config.json",
    }


def test_variant_is_pulled_with_what_it_shares(fake_hub: FakeHub, tmp_path: Path) -> None:
    pull("base", tmp_path, endpoint=fake_hub.endpoint)

    checkpoint = open_checkpoint("base", checkpoints_dir=tmp_path)
    assert not checkpoint.model.is_turbo
    assert len(checkpoint.component("transformer").weights.shards) == 2
    assert not (tmp_path / "acestep-v15-turbo").exists()
    assert not any(name.endswith((".py", ".md")) for name in names_in(tmp_path))


def test_what_is_shared_is_not_pulled_again(fake_hub: FakeHub, tmp_path: Path) -> None:
    pull("turbo", tmp_path, endpoint=fake_hub.endpoint)
    pull("base", tmp_path, endpoint=fake_hub.endpoint)

    assert set(fake_hub.sent.values()) == {1}


def test_second_pull_sends_nothing_again(fake_hub: FakeHub, tmp_path: Path) -> None:
    pull("base", tmp_path, endpoint=fake_hub.endpoint)
    pull("base", tmp_path, endpoint=fake_hub.endpoint)

    assert set(fake_hub.sent.values()) == {1}


def test_pipeline_is_pulled_into_its_folder(fake_hub: FakeHub, tmp_path: Path) -> None:
    path = pull("xl-turbo-diffusers", tmp_path, endpoint=fake_hub.endpoint)

    assert path == tmp_path / "acestep-v15-xl-turbo-diffusers"
    assert open_checkpoint("xl-turbo-diffusers", checkpoints_dir=tmp_path).model.is_turbo
    assert not any(name.endswith((".py", ".md")) for name in names_in(tmp_path))


def test_damaged_download_is_refused(fake_hub: FakeHub, tmp_path: Path) -> None:
    files = fake_hub.repositories[MAIN]
    files["vae/diffusion_pytorch_model.safetensors"] = files["vae/diffusion_pytorch_model.safetensors"][:-9]

    with pytest.raises(CheckpointError, match=r"vae/diffusion_pytorch_model\.safetensors: truncated"):
        pull("turbo", tmp_path, endpoint=fake_hub.endpoint)


def test_incomplete_repository_is_refused(fake_hub: FakeHub, tmp_path: Path) -> None:
    del fake_hub.repositories["ACE-Step/acestep-v15-base"]["silence_latent.pt"]

    with pytest.raises(CheckpointError, match=r"acestep-v15-base/silence_latent\.pt: file not found"):
        pull("base", tmp_path, endpoint=fake_hub.endpoint)


def test_unknown_name_lists_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        pull("medium", tmp_path)

    assert "'medium'" in caught.value.message
    assert all(name in caught.value.message for name in REPOSITORIES)


def test_without_network_the_error_says_what_to_do(dead_endpoint: str, tmp_path: Path) -> None:
    began = monotonic()

    with pytest.raises(UnavailableError) as caught:
        pull("base", tmp_path, endpoint=dead_endpoint)

    assert monotonic() - began < 5
    assert "cannot download ACE-Step/acestep-v15-base: " in caught.value.message
    of_model, of_shared = (
        line.strip() for line in caught.value.message.splitlines() if "hf download" in line
    )
    assert of_model == (
        "hf download ACE-Step/acestep-v15-base --include '*.safetensors' --include '*.json'"
        f" --include silence_latent.pt --local-dir {tmp_path.name}/acestep-v15-base"
    )
    assert of_shared.startswith("hf download ACE-Step/Ace-Step1.5 --include 'vae/*.safetensors'")
    assert of_shared.endswith(f" --local-dir {tmp_path.name}")
    assert caught.value.message.endswith(f"to {tmp_path}")


def test_hub_that_never_answers_is_given_up(
    silent_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "CONNECT_TIMEOUT_S", 0.2)

    with pytest.raises(UnavailableError, match=r"cannot download ACE-Step/Ace-Step1\.5: .*timed out"):
        pull("turbo", tmp_path, endpoint=silent_endpoint)


def test_interrupted_download_is_not_taken_for_a_finished_one(dead_endpoint: str, tmp_path: Path) -> None:
    (tmp_path / "acestep-v15-base").mkdir()
    (tmp_path / "acestep-v15-base" / "config.json").write_text("{}")

    with pytest.raises(UnavailableError):
        pull("base", tmp_path, endpoint=dead_endpoint)


def test_repository_that_is_gone_is_named(fake_hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"cannot download ACE-Step/acestep-v15-sft: .*404"):
        pull("sft", tmp_path, endpoint=fake_hub.endpoint)
