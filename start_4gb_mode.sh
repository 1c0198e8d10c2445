#!/usr/bin/env bash
# The menu for small cards: starts and stops the web page and the API, and tests the memory configuration.
#
#     ./start_4gb_mode.sh            a menu, in the system's language
#     ./start_4gb_mode.sh both       the same without a menu: page, api, both, test, stop, status, help
#
# Settings come from .env, or else from .env.4gb; the environment wins over both. Who has settings of their own
# begins with a copy, cp .env.4gb .env: a .env of one line would end the 4 GB mode.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# Where the virtual environment, the log and the process's number are; tests have their own.
VENV="${ACESTAGE_VENV:-$ROOT/.venv}"
STATE="${ACESTAGE_MENU_DIR:-$ROOT/out/menu}"
PID_FILE="$STATE/up.pid"
LOG_FILE="$STATE/up.log"
START_TIMEOUT_S=300
STOP_TIMEOUT_S=40

language() {
    local locale="${ACESTAGE_LANGUAGE:-${LANGUAGE:-${LC_ALL:-${LC_MESSAGES:-${LANG:-en}}}}}"
    case "$locale" in
        pt* | PT*) echo pt ;;
        *) echo en ;;
    esac
}
SPOKEN="$(language)"

# say KEY [VALUE ...]: a text in the user's language; the values stand where it has %s.
say() {
    local key="$1" text
    shift
    case "$SPOKEN:$key" in
        en:title) text='Acestage for cards of 4 GB' ;;
        pt:title) text='Acestage para placas de 4 GB' ;;
        en:page) text='Web page' ;;
        pt:page) text='Página web' ;;
        en:api) text='API (REST)' ;;
        pt:api) text='API (REST)' ;;
        en:both) text='Web page and API' ;;
        pt:both) text='Página web e API' ;;
        en:test) text='Test the memory configuration' ;;
        pt:test) text='Testar a configuração de memória' ;;
        en:stop) text='Stop' ;;
        pt:stop) text='Parar' ;;
        en:leave) text='Leave' ;;
        pt:leave) text='Sair' ;;
        en:choose) text='Your choice: ' ;;
        pt:choose) text='Sua escolha: ' ;;
        en:unknown) text='"%s" is no choice; accepted: 1 to 5, or 0 to leave.' ;;
        pt:unknown) text='"%s" não é uma opção; aceito: 1 a 5, ou 0 para sair.' ;;
        en:usage) text='Usage: %s [page|api|both|test|stop|status|help]; without a word it shows a menu.' ;;
        pt:usage) text='Uso: %s [page|api|both|test|stop|status|help]; sem palavra, mostra um menu.' ;;
        en:settings) text='Settings: %s' ;;
        pt:settings) text='Configuração: %s' ;;
        en:set_up) text='Setting up %s; the first time this downloads some GB and takes minutes ...' ;;
        pt:set_up) text='Preparando %s; na primeira vez baixa alguns GB e leva minutos ...' ;;
        en:no_python) text='Python 3.11 or newer is needed and was not found. Install it (on Debian: apt install python3 python3-venv), or name it: PYTHON=/path/to/python3.' ;;
        pt:no_python) text='É preciso Python 3.11 ou mais novo, que não foi encontrado. Instale-o (no Debian: apt install python3 python3-venv), ou indique-o: PYTHON=/caminho/python3.' ;;
        en:set_up_failed) text='The set-up failed; the lines above say why. Mend it and start again: what is there already is kept.' ;;
        pt:set_up_failed) text='A preparação falhou; as linhas acima dizem por quê. Corrija e comece de novo: o que já existe é mantido.' ;;
        en:port_taken) text='Port %s (%s) is taken by %s. End that program, or choose another port in .env.' ;;
        pt:port_taken) text='A porta %s (%s) está em uso por %s. Encerre esse programa, ou escolha outra porta no .env.' ;;
        en:somebody) text='another program' ;;
        pt:somebody) text='outro programa' ;;
        en:running) text='It runs already (process %s). Stop it first: choice 5, or %s stop.' ;;
        pt:running) text='Já está em execução (processo %s). Pare primeiro: opção 5, ou %s stop.' ;;
        en:starting) text='Starting ... the log is %s' ;;
        pt:starting) text='Iniciando ... o registro é %s' ;;
        en:up) text='It runs (process %s):' ;;
        pt:up) text='Em execução (processo %s):' ;;
        en:failed) text='It did not start. The log (%s) ends with:' ;;
        pt:failed) text='Não iniciou. O registro (%s) termina com:' ;;
        en:stopping) text='Stopping ...' ;;
        pt:stopping) text='Parando ...' ;;
        en:stopped) text='Stopped.' ;;
        pt:stopped) text='Parado.' ;;
        en:not_running) text='Nothing runs.' ;;
        pt:not_running) text='Nada está em execução.' ;;
        en:not_stopped) text='Process %s has not ended within %s s; look at %s.' ;;
        pt:not_stopped) text='O processo %s não terminou em %s s; veja %s.' ;;
        en:device) text='1. The device' ;;
        pt:device) text='1. O dispositivo' ;;
        en:no_gpu) text='No NVIDIA GPU was found: Acestage computes on the CPU, which is far slower.' ;;
        pt:no_gpu) text='Nenhuma GPU NVIDIA foi encontrada: o Acestage calcula na CPU, muito mais devagar.' ;;
        en:plan) text='2. What fits, by plan' ;;
        pt:plan) text='2. O que cabe, segundo o plano' ;;
        en:song) text='3. A short song of 10 s' ;;
        pt:song) text='3. Uma música curta de 10 s' ;;
        en:peak) text='4. Memory that it took' ;;
        pt:peak) text='4. Memória que ela usou' ;;
        en:peak_line) text='  %-13s planned %6s MiB, peak %6s MiB' ;;
        pt:peak_line) text='  %-13s planejado %6s MiB, pico %6s MiB' ;;
        en:whole_process) text='  Without a GPU the peak is that of the whole process with its libraries, which no plan counts.' ;;
        pt:whole_process) text='  Sem GPU, o pico é o do processo inteiro com suas bibliotecas, que nenhum plano conta.' ;;
        en:fits) text='The memory configuration works.' ;;
        pt:fits) text='A configuração de memória funciona.' ;;
        en:test_failed) text='The song could not be made; the lines above say why.' ;;
        pt:test_failed) text='A música não pôde ser feita; as linhas acima dizem por quê.' ;;
        en:no_space) text='Only %s MiB are free on the disk of %s; the set-up needs about 6000.' ;;
        pt:no_space) text='Só há %s MiB livres no disco de %s; a preparação precisa de cerca de 6000.' ;;
        en:no_model) text='The model cannot be used: %s\nDownload one with: %s models pull turbo\nand name it in .env: ACESTAGE_CHECKPOINT=turbo' ;;
        pt:no_model) text='O modelo não pode ser usado: %s\nBaixe um com: %s models pull turbo\ne indique-o no .env: ACESTAGE_CHECKPOINT=turbo' ;;
        en:untrained) text='No model is chosen: the one in the package is untrained, and makes noise.\nDownload one (6 GB) with: %s models pull turbo\nand name it in .env: ACESTAGE_CHECKPOINT=turbo' ;;
        pt:untrained) text='Nenhum modelo foi escolhido: o do pacote não foi treinado, e faz ruído.\nBaixe um (6 GB) com: %s models pull turbo\ne indique-o no .env: ACESTAGE_CHECKPOINT=turbo' ;;
        en:copy_first) text='There is no .env yet, and it would take the place of .env.4gb, so begin it as a copy: cp %s %s' ;;
        pt:copy_first) text='Ainda não há .env, que tomaria o lugar do .env.4gb; comece-o como cópia: cp %s %s' ;;
        *) text="$key" ;;
    esac
    # shellcheck disable=SC2059  # the text is one of those above
    printf "$text\n" "$@"
}

fail() {
    say "$@" >&2
    return 1
}

# After advice to set something in .env.
say_how_to_begin() {
    [[ -f "$ROOT/.env" ]] || say copy_first "$ROOT/.env.4gb" "$ROOT/.env"
}

env_file() {
    if [[ -f "$ROOT/.env" ]]; then
        echo "$ROOT/.env"
    else
        echo "$ROOT/.env.4gb"
    fi
}

find_python() {
    local name
    for name in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        if [[ -n "$name" ]] && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    return 1
}

# Sets up what is missing, as the Makefile does.
prepare() {
    local python free_mib
    [[ -x "$VENV/bin/acestage" ]] && return
    python="$(find_python)" || { fail no_python; return 1; }
    free_mib="$(df -Pm "$ROOT" | awk 'NR == 2 { print $4 }')"
    if ((free_mib < 6000)); then
        fail no_space "$free_mib" "$ROOT"
        return 1
    fi
    say set_up "$VENV"
    if ! { "$python" -m venv "$VENV" \
        && PIP_CONSTRAINT=constraints.txt "$VENV/bin/python" -m pip install \
            --disable-pip-version-check -e .; }; then
        fail set_up_failed
        return 1
    fi
}

# The number of the `acestage up` that this menu started, where it still runs.
running_pid() {
    local pid
    [[ -f "$PID_FILE" ]] || return 1
    pid="$(<"$PID_FILE")"
    # Another process may have the number by now.
    [[ "$pid" =~ ^[0-9]+$ ]] || return 1
    { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -q 'acestage up' || return 1
    echo "$pid"
}

# Reads settings as Acestage does, and prints a line for each port that `doors` needs: its name, host and port.
ports_of() {
    "$VENV/bin/python" - "$(env_file)" "$1" <<'PYTHON'
import sys
from pathlib import Path

from pydantic import ValidationError

from acestage.local_stack import open_doors
from acestage.setting_errors import setting_errors
from acestage.settings import load_settings

try:
    settings = load_settings(Path(sys.argv[1]), doors=sys.argv[2])
except ValidationError as error:
    sys.exit("\n".join(setting_errors(error)))
addresses = {name: (settings.host, port) for name, port in settings.ports().items()} | open_doors(settings)
for name, (host, port) in addresses.items():
    print(name, host, port)
PYTHON
}

is_free() {
    "$VENV/bin/python" -c '
import socket, sys
host, port = sys.argv[1].strip("[]"), int(sys.argv[2])
with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port))
    except OSError:
        sys.exit(1)
' "$1" "$2"
}

# Who listens on a port, as far as this user may see it.
holder_of() {
    "$VENV/bin/python" -c '
import sys
import psutil
for connection in psutil.net_connections("tcp"):
    if connection.status == psutil.CONN_LISTEN and connection.laddr.port == int(sys.argv[1]) and connection.pid:
        print(f"{psutil.Process(connection.pid).name()} ({connection.pid})")
        break
' "$1" 2>/dev/null || true
}

check_ports() {
    local lines name host port holder
    lines="$(ports_of "$1")" || return 1
    while read -r name host port; do
        if ! is_free "$host" "$port"; then
            holder="$(holder_of "$port")"
            fail port_taken "$port" "$name" "${holder:-$(say somebody)}" || say_how_to_begin >&2
            return 1
        fi
    done <<<"$lines"
}

# A model that is not there, or that only makes noise, is said before anything starts.
check_model() {
    local found
    found="$("$VENV/bin/python" - "$(env_file)" 2>"$STATE/model.txt" <<'PYTHON'
import sys
from pathlib import Path

from acestage.checkpoints import open_checkpoints
from acestage.errors import AcestageError
from acestage.settings import EMBEDDED_CHECKPOINT, load_settings

settings = load_settings(Path(sys.argv[1]))
try:
    open_checkpoints(
        settings.checkpoints, checkpoints_dir=settings.checkpoints_dir, variant=settings.variant
    )
except AcestageError as error:
    sys.exit(error.message)
if settings.checkpoints == (EMBEDDED_CHECKPOINT,):
    print("untrained")
PYTHON
    )" || {
        fail no_model "$(<"$STATE/model.txt")" "$VENV/bin/acestage" || say_how_to_begin >&2
        return 1
    }
    if [[ "$found" == untrained ]]; then
        say untrained "$VENV/bin/acestage"
        say_how_to_begin
    fi
}

has_gpu() {
    command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1
}

# Ctrl-C, or the end of the terminal, ends what this menu has started under that number, and the menu.
interrupted() {
    trap - INT TERM HUP
    # "stop" knows it only once it is `acestage up`, and says that it stopped what it finds at work.
    running_pid >/dev/null || kill "$1" 2>/dev/null || true
    stop || true
    exit 130
}

# start DOORS [background]
start() {
    local doors="$1" pid=""
    prepare || return 1
    if pid="$(running_pid)"; then
        fail running "$pid" "$0"
        return 1
    fi
    say settings "$(env_file)"
    mkdir -p "$STATE"
    check_ports "$doors" || return 1
    check_model || return 1
    [[ "$doors" == none ]] || has_gpu || say no_gpu
    if [[ "${2:-}" != background ]]; then
        rm -f "$LOG_FILE"
        # What takes this process's place keeps its number, so that "stop" finds it from elsewhere.
        echo "$$" >"$PID_FILE"
        exec "$VENV/bin/acestage" up --doors "$doors" --env-file "$(env_file)"
    fi
    say starting "$LOG_FILE"
    : >"$LOG_FILE" # now, since it is read before the process below may have opened it
    # Of its own session: Ctrl-C in the menu is not for it.
    setsid "$VENV/bin/acestage" up --doors "$doors" --env-file "$(env_file)" >"$LOG_FILE" 2>&1 </dev/null &
    pid=$!
    # shellcheck disable=SC2064  # that number, whatever the variable is by then
    trap "interrupted $pid" INT TERM HUP
    echo "$pid" >"$PID_FILE"
    local deadline=$((SECONDS + START_TIMEOUT_S))
    until grep -q '^Up\.' "$LOG_FILE"; do
        if ! kill -0 "$pid" 2>/dev/null || ((SECONDS > deadline)); then
            fail failed "$LOG_FILE" || true
            tail -n 15 "$LOG_FILE" >&2
            kill "$pid" 2>/dev/null || true
            rm -f "$PID_FILE"
            trap - INT TERM HUP
            return 1
        fi
        sleep 0.3
    done
    trap - INT TERM HUP
    say up "$pid"
    show_addresses
}

show_addresses() {
    [[ ! -f "$LOG_FILE" ]] || sed -nE 's/^((Web page|REST): .*)/  \1/p' "$LOG_FILE"
}

stop() {
    local pid
    if ! pid="$(running_pid)"; then
        rm -f "$PID_FILE"
        say not_running
        return
    fi
    say stopping
    kill -TERM "$pid" 2>/dev/null || true # it may just have ended
    local deadline=$((SECONDS + STOP_TIMEOUT_S))
    while running_pid >/dev/null; do
        if ((SECONDS > deadline)); then
            fail not_stopped "$pid" "$STOP_TIMEOUT_S" "$LOG_FILE"
            return 1
        fi
        sleep 0.2
    done
    rm -f "$PID_FILE"
    say stopped
}

status() {
    local pid
    if pid="$(running_pid)"; then
        say up "$pid"
        show_addresses
    else
        say not_running
    fi
}

# What the card has, what the planner says of it, and a song to prove it.
test_memory() {
    local file result lines stage planned peak kind is_whole="" is_ours=""
    prepare || return 1
    file="$(env_file)"
    say settings "$file"
    say device
    if has_gpu; then
        nvidia-smi --query-gpu=name,memory.total,memory.free --format=csv
    else
        say no_gpu
    fi
    say plan
    "$VENV/bin/acestage" plan --env-file "$file" || true
    say song
    if ! running_pid >/dev/null; then
        start none background || return 1
        is_ours=yes
        # shellcheck disable=SC2064
        trap "interrupted $(<"$PID_FILE")" INT TERM HUP
    fi
    mkdir -p "$STATE"
    result="$STATE/test.json"
    local code=0
    "$VENV/bin/acestage" generate "warm piano" --duration 10 --seed 7 --json --env-file "$file" \
        -o "$STATE/test.wav" >"$result" || code=$?
    [[ -z "$is_ours" ]] || stop
    trap - INT TERM HUP
    if ((code)); then
        fail test_failed
        return 1
    fi
    say peak
    lines="$(peaks_in "$result")" && [[ -n "$lines" ]] || { fail test_failed; return 1; }
    while read -r stage planned peak kind; do
        say peak_line "$stage" "$planned" "$peak"
        [[ "$kind" != whole ]] || is_whole=yes
    done <<<"$lines"
    [[ -z "$is_whole" ]] || say whole_process
    say fits
}

# A line for each stage of a result: its name, the MiB that were planned and that it took at most, and whether that
# is of a "device" or of a "whole" process. A worker cannot take more of a device than was planned: it fails before.
peaks_in() {
    "$VENV/bin/python" -c '
import json, sys
result = json.load(open(sys.argv[1]))
for stage in result["stages"]:
    name, peak, kind = stage["stage"], stage["peak_device_bytes"], "device"
    if not peak:  # on the CPU the worker, weights and interpreter included, is what there is to see
        peak, kind = result["peak_rss_bytes"].get(f"{name}/worker", 0), "whole"
    print(name, stage["planned_bytes"] >> 20, peak >> 20, kind)' "$1"
}

menu() {
    local choice
    while true; do
        printf '\n%s\n' "$(say title)"
        printf '  1  %s\n  2  %s\n  3  %s\n  4  %s\n  5  %s\n  0  %s\n' \
            "$(say page)" "$(say api)" "$(say both)" "$(say test)" "$(say stop)" "$(say leave)"
        printf '%s' "$(say choose)"
        read -r choice || { echo; return; }
        case "$choice" in
            1) start page background || true ;;
            2) start rest background || true ;;
            3) start both background || true ;;
            4) test_memory || true ;;
            5) stop || true ;;
            0 | q | Q) return ;;
            *) say unknown "$choice" ;;
        esac
    done
}

cd "$ROOT"
case "${1:-}" in
    "") menu ;;
    page) start page ;;
    api | rest) start rest ;;
    both) start both ;;
    test) test_memory ;;
    stop) stop ;;
    status) status ;;
    help | -h | --help) say usage "$0" ;;
    *)
        say usage "$0" >&2
        exit 2
        ;;
esac
