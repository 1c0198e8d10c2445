"""Settings: where services answer, and what is said of a wrong value."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer
from pydantic import ValidationError

from acestage.cli.flags import load_settings as settings_of_command
from acestage.setting_errors import setting_errors
from acestage.setting_names import all_variables
from acestage.setting_types import check_address
from acestage.settings import SERVICES, Settings, load_settings
from acestage.unknown_settings import unknown_settings
from services.runtime.stage_config import StageConfig


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty; no setting comes from outside."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("ACESTAGE_", "ACESTEP_", "MAX_CUDA_VRAM", "PYTORCH_CUDA_", "LANGUAGE")):
            monkeypatch.delenv(name)
    return tmp_path


def errors_of(**flags: object) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Settings(**flags)
    return setting_errors(caught.value)


def test_the_model_that_upstream_names_alone_is_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACESTEP_CONFIG_PATH", "acestep-v15-base")
    assert Settings().checkpoints == ("acestep-v15-base",)
    assert Settings(checkpoint="models").checkpoints == ("models",)


def test_checkpoints_are_listed_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().checkpoints == ("tiny-turbo",)
    monkeypatch.setenv("ACESTAGE_CHECKPOINT", "turbo, models/base ,xl-turbo")
    settings = Settings()
    assert settings.checkpoints == ("turbo", "models/base", "xl-turbo")
    config = StageConfig.from_settings("dit", settings, "cpu")
    assert StageConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("value", ["turbo,", ",turbo", "turbo,,base", " "])
def test_a_list_of_checkpoints_has_no_empty_part(value: str) -> None:
    (error,) = errors_of(checkpoint=value)
    assert "has an empty part: accepted are names or folders with commas between them" in error


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_sought_at_its_port_on_this_machine(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = Settings()
    assert default.address(service) == f"127.0.0.1:{default.ports()[service]}"
    monkeypatch.setenv(f"ACESTAGE_{service.upper()}_PORT", "41070")
    moved = Settings()
    assert moved.address(service) == "127.0.0.1:41070"
    others = [name for name in SERVICES if name != service]
    assert [moved.address(name) for name in others] == [default.address(name) for name in others]


@pytest.mark.parametrize("service", SERVICES)
def test_an_address_that_is_given_wins_over_the_port(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACESTAGE_{service.upper()}_PORT", "41070")
    monkeypatch.setenv(f"ACESTAGE_{service.upper()}", "dns:///gpu-box:50050")
    assert Settings().address(service) == "dns:///gpu-box:50050"
    assert Settings(**{service: "10.0.0.2:1"}).address(service) == "10.0.0.2:1"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:50050",
        "text_encoder:50051",
        "gpu-box.example.org:65535",
        "[::1]:1",
        "dns:///dit:50052",
        "unix:/run/acestage/dit.sock",
        "unix:dit.sock",
    ],
)
def test_addresses_that_are_accepted(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "myhost",
        "myhost:",
        "myhost:0",
        "myhost:65536",
        "myhost:http",
        ":50050",
        "::1:50050",
        "two words:50050",
        "http://myhost:50050",
        "dns:///myhost",
        "dns:///",
        "unix:",
        "myhost:50050\n",
    ],
)
def test_addresses_that_are_not(address: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        check_address(address)


def test_a_wrong_setting_is_named_with_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = errors_of(orchestrator="somewhere")
    assert line.startswith("orchestrator: is not an address")
    assert line.endswith("(given: 'somewhere')")
    monkeypatch.setenv("ACESTAGE_ORCHESTRATOR", "myhost")
    monkeypatch.setenv("ACESTAGE_THREADS", "0")
    address, threads = errors_of()
    assert address.startswith("ACESTAGE_ORCHESTRATOR: is not an address")
    assert address.endswith("(given: 'myhost')")
    assert threads.startswith("ACESTAGE_THREADS: ")
    assert threads.endswith("(given: '0')")


def test_a_wrong_setting_is_named_by_whichever_variable_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACESTEP_DEVICE", "mps")
    (line,) = errors_of()
    assert line.startswith("ACESTAGE_DEVICE or ACESTEP_DEVICE: is no device; accepted: auto, cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "CPU", "cpu\n"])
def test_a_device_that_is_none_is_told_which_there_are(device: str) -> None:
    assert errors_of(device=device) == [
        f"device: is no device; accepted: auto, cpu, cuda or cuda:N (given: {device!r})"
    ]


def test_an_empty_value_is_as_unset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("ACESTAGE_THREADS=\nACESTAGE_DIT=\nACESTAGE_VAE=vae:50053\n")
    monkeypatch.setenv("ACESTAGE_ORCHESTRATOR_PORT", "")
    monkeypatch.setenv("ACESTAGE_VAE", "")
    settings = Settings()
    assert settings.threads is None
    assert settings.dit is None
    assert settings.vae == "vae:50053"
    assert settings.orchestrator_port == 50050


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("ACESTAGE_THREADS=2\n")
    assert Settings().threads == 2
    monkeypatch.setenv("ACESTAGE_THREADS", "3")
    assert Settings().threads == 3
    assert Settings(threads=4).threads == 4


def test_variables_of_other_programs_are_no_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = Settings()
    others = {"HOST": "0.0.0.0", "INSECURE": "true", "DEVICE": "cuda:7", "THREADS": "64", "WARMUP": "no"}
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in others.items()))
    assert Settings() == default
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    assert Settings() == default


def test_a_file_can_stand_in_for_env(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("ACESTAGE_THREADS=2\nACESTAGE_DIT=dit:1\n")
    (folder / "other").write_text("ACESTAGE_THREADS=3\nACESTAGE_VAE=vae:1\n")
    settings = load_settings(folder / "other", host="0.0.0.0")
    assert (settings.threads, settings.dit, settings.vae, settings.host) == (3, None, "vae:1", "0.0.0.0")
    monkeypatch.setenv("ACESTAGE_THREADS", "4")
    assert load_settings(folder / "other").threads == 4
    assert load_settings().dit == "dit:1"


@pytest.mark.parametrize(("encoding", "given"), [("latin-1", r"b'\xfa'"), ("utf-16", r"b'\xff'")])
def test_a_file_that_is_no_utf_8_is_named(folder: Path, encoding: str, given: str) -> None:
    for name in (".env", "other"):
        (folder / name).write_text("ACESTAGE_OUTPUT_DIR=músicas\n", encoding=encoding)
    for env_file, name in ((None, ".env"), (Path("other"), "other")):
        with pytest.raises(ValidationError) as caught:
            load_settings(env_file)
        assert setting_errors(caught.value) == [f"{name}: is no text in UTF-8 (given: {given})"]
        with pytest.raises(typer.BadParameter, match=f"^{name}: is no text in UTF-8"):
            settings_of_command(env_file)


def test_names_in_a_file_that_are_no_settings_are_told_with_the_nearest(folder: Path) -> None:
    assert unknown_settings() == []
    lines = (
        "ACESTAGE_CHEKPOINT=turbo\nexport ACESTAGE_REST_PORT=1\nACESTEP_LATER=1\nHOST=x\nacestage_dit=dit:1\n"
    )
    (folder / ".env").write_text(f"{lines}# ACESTAGE_COMMENT=1\n")
    assert unknown_settings() == ["ACESTAGE_CHEKPOINT is no setting; did you mean ACESTAGE_CHECKPOINT?"]
    (folder / "other").write_text("ACESTAGE_MAX_DURATION=60\nACESTAGE_QQQQQQ=1\n")
    assert unknown_settings(folder / "other") == [
        "ACESTAGE_MAX_DURATION is no setting; did you mean ACESTEP_MAX_DURATION?",
        "ACESTAGE_QQQQQQ is no setting",
    ]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ACESTEP_MAX_DURATON", "ACESTEP_MAX_DURATION"),
        ("ACESTEP_DEIVCE", "ACESTAGE_DEVICE"),
        ("ACESTEP_INIT_LM", "ACESTEP_INIT_LLM"),
        ("ACESTEP_CHECKPOINT_DIR", "ACESTAGE_CHECKPOINTS_DIR"),
        ("ACESTEP_API_PROT", "ACESTEP_API_PORT"),
    ],
)
def test_a_name_of_upstream_that_is_misspelt_is_told_as_well(folder: Path, given: str, meant: str) -> None:
    (folder / ".env").write_text(f"{given}=1\n")
    assert unknown_settings() == [f"{given} is no setting; did you mean {meant}?"]


def test_other_names_of_upstream_are_none_of_ours(folder: Path) -> None:
    ends = (
        *("API_URL", "API_WORKERS", "BATCH_SIZE", "CONFIG_PATH2", "CONFIG_PATH3", "DOWNLOAD_SOURCE", "DTYPE"),
        *("FORCE_FLAC_EXPORT", "LM_BACKEND", "LM_DEVICE", "LM_OFFLOAD_TO_CPU", "NO_INIT", "QUANTIZATION"),
        *("OFFLOAD_VAE_TO_CPU", "QUEUE_WORKERS", "USE_TILED_DECODE", "VAE_ON_CPU", "MAX_CONCURRENT"),
    )
    (folder / ".env").write_text("".join(f"ACESTEP_{end}=1\n" for end in ends))
    assert unknown_settings() == []


@pytest.mark.parametrize(
    ("given", "meant"), [("auto", None), ("Auto", None), ("true", True), ("false", False), ("0", False)]
)
@pytest.mark.parametrize("variable", ["ACESTEP_INIT_LLM", "ACESTEP_INIT_LM_DEFAULT"])
def test_a_switch_is_true_false_or_auto(
    variable: str, given: str, meant: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, given)
    assert Settings().init_language_model is meant


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ACESTAGE_LIMITS", "none"),
        ("ACESTEP_MAX_DURATION", "9"),
        ("ACESTEP_MAX_DURATION", "nan"),
        ("ACESTEP_MAX_BATCH_SIZE", "0"),
        ("ACESTEP_INIT_LLM", "perhaps"),
        ("MAX_CUDA_VRAM", "0"),
        ("ACESTAGE_MAX_AUDIO_BYTES", "1000"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    (line,) = errors_of()
    assert variable in line.split(":")[0].split(" or ")
    assert line.endswith(f"(given: {value!r})")


def test_audio_lies_in_a_folder_of_the_users_own_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().tmp_dir == Path(f"/tmp/acestage-{os.getuid()}")
    monkeypatch.setenv("ACESTEP_TMPDIR", "/var/tmp/upstream")
    assert Settings().tmp_dir == Path("/var/tmp/upstream")
    monkeypatch.setenv("ACESTAGE_TMPDIR", "/var/tmp/ours")
    assert Settings().tmp_dir == Path("/var/tmp/ours")


def test_what_is_kept_lies_with_the_users_other_caches_unless_a_folder_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Settings().cache_dir == Path("/home/somebody/.cache/acestage")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/somebody")
    assert Settings().cache_dir == Path("/var/cache/somebody/acestage")
    monkeypatch.setenv("ACESTAGE_CACHE_DIR", "/var/cache/ours")
    assert Settings().cache_dir == Path("/var/cache/ours")


def test_the_cache_of_a_user_without_a_home_lies_in_their_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACESTAGE_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 123_456_789)
    assert Settings().cache_dir == Path("/tmp/acestage-123456789/cache")


def test_the_allocator_of_a_file_reaches_the_configuration_of_the_stages(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocator() -> str | None:
        return StageConfig.from_settings("dit", Settings(), "cpu").cuda_allocator

    assert allocator() is None
    (folder / ".env").write_text("PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:128\n")
    assert allocator() == "max_split_size_mb:128"
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:256")
    assert allocator() == "max_split_size_mb:256"


def test_a_key_shows_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACESTEP_API_KEY", "s3cret")
    settings = Settings()
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "s3cret"
    assert "s3cret" not in f"{settings!r} {settings}"
    for flags in ({"api_key": " s3cret"}, {"rest_port": 1_000_000}, {"api_key": "s3crét"}):
        with pytest.raises(ValidationError) as caught:
            Settings(**flags)
        assert "s3cr" not in " ".join([str(caught.value), *setting_errors(caught.value)])
    monkeypatch.setenv("ACESTEP_API_KEY", "s3crét")
    (line,) = errors_of()
    assert "s3cr" not in line


@pytest.mark.parametrize(
    ("value", "language"), [("pt_BR:en", "pt"), ("pt", "pt"), ("en_US", "en"), ("de", "en"), ("PT_pt", "pt")]
)
def test_the_language_is_that_of_the_system(
    monkeypatch: pytest.MonkeyPatch, value: str, language: str
) -> None:
    monkeypatch.setenv("LANGUAGE", value)
    assert Settings().language == language


def test_a_language_that_is_chosen_is_one_of_the_page_and_wins_over_the_systems(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, language in {"pt": "pt", "pt_BR.UTF-8": "pt", "en-GB": "en"}.items():
        (folder / ".env").write_text(f"ACESTAGE_LANGUAGE={value}\n")
        for locale in ("de_DE", "pt_PT", "en_US"):
            monkeypatch.setenv("LANGUAGE", locale)
            assert Settings().language == language
    for value in ("german", "C", "ptolemaic", "english"):
        monkeypatch.setenv("ACESTAGE_LANGUAGE", value)
        (line,) = errors_of()
        assert line.startswith("ACESTAGE_LANGUAGE: is no language of the page; accepted: en, pt, or a locale")
        assert line.endswith(f"(given: {value!r})")


def test_paths_may_begin_with_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    paths = [name for name, field in Settings.model_fields.items() if "Path" in str(field.annotation)]
    assert {"checkpoints_dir", "output_dir", "tls_cert", "tmp_dir"} < set(paths)
    variables = all_variables()
    (folder / ".env").write_text("".join(f"{variables[name][0]}=~/{name}\n" for name in paths))
    settings = Settings()
    assert [getattr(settings, name) for name in paths] == [folder / name for name in paths]
    assert errors_of(output_dir="~nobody-here/x") == [
        "output_dir: begins with ~nobody-here, and there is no such user (given: '~nobody-here/x')"
    ]
