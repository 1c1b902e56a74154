"""The commands that look after calls, as a person runs them; the cluster is a small HTTP server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import kubefunc
from tests.local.api_server import Server
from tests.local.stored import FAILED, MAP, RUNS, WAITS, StoredCalls, four_calls, write_kubeconfig
from tests.local.terminal import CTRL_C, on_terminal

PROGRAM = [sys.executable, "-m", "kubefunc"]


@dataclass(frozen=True)
class Shell:
    """A person's shell, with a kubeconfig."""

    env: dict[str, str]
    cluster: StoredCalls

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``kubefunc`` in a pipe."""
        return subprocess.run(
            [*PROGRAM, *arguments], env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )

    def json(self, *arguments: str) -> Any:
        """What a command prints with ``--json``."""
        result = self.run(*arguments, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)


@pytest.fixture
def shell(clean_env: dict[str, str], tmp_path: Path) -> Iterator[Shell]:
    """With four calls in the namespace of its context."""
    cluster = four_calls()
    with Server(cluster) as server:
        kubeconfig = tmp_path / "kubeconfig"
        write_kubeconfig(kubeconfig, server.url)
        yield Shell({**clean_env, "KUBECONFIG": str(kubeconfig), "TERM": "xterm"}, cluster)


# -- ls and show


def test_ls_in_a_pipe_is_a_plain_table(shell: Shell) -> None:
    """The oldest call first, whichever program made it, without colours and cut off nowhere."""
    lines = [line.split() for line in shell.run("ls").stdout.splitlines()]
    assert [line[0] for line in lines] == ["ID", RUNS, FAILED, WAITS, MAP]
    assert [line[1] for line in lines] == ["STATE", "running", "failed", "pending", "running"]
    assert lines[4][-2:] == ["2/3", "score"]


def test_ls_as_json(shell: Shell) -> None:
    """Each call is a document whose fields docs/command-line.md lists; what is not known is null."""
    calls = shell.json("ls")
    assert [call["id"] for call in calls] == [RUNS, FAILED, WAITS, MAP]
    run = calls[0]
    assert (run["state"], run["namespace"], run["shape"], run["finished"]) == ("running", "team", "single", None)
    assert run["pods"][0]["node"] == "node-1"
    assert [calls[3][name] for name in ("shape", "items", "chunks", "succeeded", "failed")] == ["map", 3, 3, 1, 1]


def test_ls_of_one_state(shell: Shell) -> None:
    """--state may be given several times."""
    assert [call["id"] for call in shell.json("ls", "--state", "failed", "--state", "pending")] == [FAILED, WAITS]


def test_ls_of_ones_own_calls(shell: Shell) -> None:
    """By the label that says who made them, which nobody checks."""
    shell.cluster.jobs[0]["metadata"]["labels"]["kubefunc/user"] = "ada_lab"
    mine = Shell({**shell.env, "LOGNAME": "ada@lab"}, shell.cluster)
    assert [call["id"] for call in mine.json("ls", "--mine")] == [RUNS]
    assert shell.run("clean", "--mine", "--yes").stderr == "Nothing to delete in the namespace team.\n"


@pytest.mark.parametrize(("columns", "titles"), [(120, "ID STATE AGE RAN DONE FUNCTION"), (40, "ID STATE")])
def test_ls_on_a_terminal_fits_its_width(columns: int, titles: str, shell: Shell) -> None:
    """Where it is narrow, less important columns are left out. Ids are whole: they are there to be copied."""
    code, screen = on_terminal([*PROGRAM, "ls"], {**shell.env, "NO_COLOR": "1"}, columns=columns)
    lines = screen.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    assert code == 0
    assert " ".join(lines[0].split()).startswith(titles)
    assert len(lines) == 5
    assert lines[1].startswith(RUNS)


def test_ls_on_a_terminal_that_is_narrower_than_an_id(shell: Shell) -> None:
    """The terminal breaks the lines, not kubefunc."""
    _, screen = on_terminal([*PROGRAM, "ls"], shell.env, columns=12)
    assert f"\n{RUNS}  running" in screen


def test_colours_are_for_terminals_that_want_them(shell: Shell) -> None:
    """By state; not with NO_COLOR and not on a dumb terminal."""
    assert "\x1b[31mfailed" in on_terminal([*PROGRAM, "ls"], shell.env)[1]
    assert "\x1b[31m" not in on_terminal([*PROGRAM, "ls"], {**shell.env, "NO_COLOR": "1"})[1]
    assert "\x1b" not in on_terminal([*PROGRAM, "ls"], {**shell.env, "TERM": "dumb"})[1]


def test_names_from_the_cluster_do_not_steer_the_terminal(shell: Shell) -> None:
    """Who may write Jobs in a namespace chooses their annotations."""
    shell.cluster.jobs[0]["metadata"]["annotations"]["kubefunc/function"] = "\x1b[2J\x1b]0;owned\x07\u202eevil"
    for _, screen in (on_terminal([*PROGRAM, *what], shell.env, columns=200) for what in (["ls"], ["show", RUNS])):
        assert "\x1b[2J" not in screen
        assert "\x1b]0" not in screen
        assert "\\x1b[2J\\x1b]0;owned\\x07\\u202eevil" in screen


def test_malformed_objects_are_left_out(shell: Shell) -> None:
    """A Job that is not what the API sends hides no other."""
    shell.cluster.jobs[0]["metadata"]["labels"]["kubefunc/call"] = RUNS
    shell.cluster.jobs[0]["spec"] = {"completionMode": 7}
    shell.cluster.pods[1]["status"]["containerStatuses"] = "none"
    assert [call["id"] for call in shell.json("ls")] == [FAILED, WAITS, MAP]


def test_no_calls(shell: Shell) -> None:
    """Said on standard error, so that a pipe gets nothing; as JSON an empty list."""
    shell.cluster.jobs.clear()
    result = shell.run("ls")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "No calls in the namespace team.\n")
    assert shell.json("ls") == []


def test_show_says_what_a_call_waits_for(shell: Shell) -> None:
    """In the words that the program which waits for it would show, with the cluster's own."""
    shown = shell.run("show", WAITS).stdout
    assert "No node can take the function now: none has that much cpu free." in shown
    assert "  cluster: Unschedulable: 0/1: Insufficient cpu." in shown
    diagnosis = shell.json("show", WAITS)["diagnosis"]
    assert (diagnosis["reason"], diagnosis["advice"]) == ("Unschedulable", "Ask for less (cpu=).")


def test_show_says_how_to_see_an_exception(shell: Shell) -> None:
    """A function that raised: its exception is in the result, and the command is named that shows it."""
    shown = shell.run("show", FAILED).stdout
    assert "The function has raised an exception." in shown
    assert f"`kubefunc result {FAILED}` shows the exception" in shown


@pytest.mark.parametrize("written", [WAITS, f"team/{WAITS}", f"{WAITS}-x1y2z", f"{WAITS}-r2"])
def test_an_id_may_be_copied_from_kubectl(written: str, shell: Shell) -> None:
    """The names of its Jobs and Pods, and namespace/id, name a call too."""
    assert shell.json("show", written)["id"] == WAITS


def test_an_id_that_is_not_there(shell: Shell) -> None:
    """Exit code 3; a slip is told."""
    result = shell.run("show", RUNS[:-1] + "b")
    assert result.returncode == 3
    assert "There is no call" in result.stderr
    assert f"Did you mean {RUNS}?" in result.stderr


def test_what_is_no_id_is_refused_before_anything_is_asked(shell: Shell) -> None:
    """Exit code 2, as for every wrong command line."""
    result = shell.run("cancel", RUNS, "../jobs")
    assert result.returncode == 2
    assert "'../jobs' is not the id of a call" in result.stderr
    assert shell.cluster.deleted == []


def test_a_mistyped_command(shell: Shell) -> None:
    """The one that is meant is named."""
    assert "Did you mean 'show'?" in shell.run("shwo").stderr


# -- logs


def test_logs_in_a_pipe_are_what_was_printed(shell: Shell) -> None:
    """Every byte."""
    assert shell.run("logs", FAILED).stdout == "\x1b[31mred\x1b[0m \x1b]0;title\x07\n"


def test_logs_on_a_terminal_keep_colours_alone(shell: Shell) -> None:
    """Other sequences are shown as text; with NO_COLOR colours go too; --raw shows every byte."""
    assert on_terminal([*PROGRAM, "logs", FAILED], shell.env)[1] == "\x1b[31mred\x1b[0m \\x1b]0;title\\x07\r\n"
    plain = on_terminal([*PROGRAM, "logs", FAILED], {**shell.env, "NO_COLOR": "1"})[1]
    assert plain == "red \\x1b]0;title\\x07\r\n"
    assert "\x1b]0;title\x07" in on_terminal([*PROGRAM, "logs", "--raw", FAILED], shell.env)[1]


def test_logs_of_a_map_name_the_pod(shell: Shell) -> None:
    """Each line begins with its index; Pods that have printed nothing are left out."""
    assert shell.run("logs", MAP).stdout == "[0] item 0\n[2] item 2\n[2] item 2 again\n"


def test_logs_as_json_are_a_document_a_line(shell: Shell) -> None:
    """So that they can be followed."""
    lines = [json.loads(line) for line in shell.run("logs", MAP, "--json").stdout.splitlines()]
    assert lines[0] == {"pod_index": 0, "line": "item 0"}


def test_logs_of_a_call_that_printed_nothing(shell: Shell) -> None:
    """A line says so, beside the output, and why it may be."""
    result = shell.run("logs", WAITS)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == f"kubefunc: {WAITS} has printed nothing: it is pending\n"


def test_options_of_logs_go_to_the_node(shell: Shell, tmp_path: Path) -> None:
    """--since in seconds, rounded up, --tail and --timestamps."""
    with Server(shell.cluster) as server:
        write_kubeconfig(tmp_path / "kubeconfig", server.url)
        assert shell.run("logs", RUNS, "--since", "1m30s", "--tail", "5", "--timestamps").returncode == 0
        asked = [dict(request.query) for request in server.requests if request.path.endswith("/log")]
    assert asked == [{"container": "main", "timestamps": "true", "sinceSeconds": "90", "tailLines": "5"}]


def test_every_request_says_who_sends_it(shell: Shell, tmp_path: Path) -> None:
    """Lists, deletions and logs that are followed: an administrator sees kubefunc and its version."""
    with Server(shell.cluster) as server:
        write_kubeconfig(tmp_path / "kubeconfig", server.url)
        for command in (["logs", "-f", FAILED], ["cancel", RUNS]):
            assert shell.run(*command).returncode == 0
        assert {request.headers["user-agent"] for request in server.requests} == {f"kubefunc/{kubefunc.__version__}"}


def test_a_wrong_duration(shell: Shell) -> None:
    """The message shows right ones."""
    result = shell.run("logs", RUNS, "--since", "yesterday")
    assert result.returncode == 2
    assert "'yesterday' is not a duration such as 30s" in result.stderr


def test_following_ends_with_the_call(shell: Shell) -> None:
    """Of a finished call, when its log has been printed."""
    result = shell.run("logs", "-f", FAILED)
    assert (result.returncode, result.stdout.strip()[-6:]) == (0, "title\x07")


def test_ctrl_c_ends_following(shell: Shell) -> None:
    """Exit code 130, without a traceback; what it waits for was said."""
    code, screen = on_terminal(
        [*PROGRAM, "logs", "-f", WAITS], shell.env, answers=[("No node can take the function now", CTRL_C)]
    )
    assert code == 130
    assert "Traceback" not in screen


# -- result, cancel, clean


def test_result_of_an_unfinished_call(shell: Shell) -> None:
    """Exit code 4, and how to wait for it."""
    result = shell.run("result", RUNS)
    assert (result.returncode, result.stdout) == (4, "")
    assert f"{RUNS} has not finished: it is running. `kubefunc result --wait {RUNS}` waits" in result.stderr


def test_cancel_deletes_the_job_and_its_secret(shell: Shell) -> None:
    """With all others that were given, though one of them is not there (exit code 3)."""
    result = shell.run("cancel", RUNS, "gone-" + 16 * "e", WAITS, FAILED)
    assert result.returncode == 3
    assert result.stdout == f"cancelled {RUNS}\ncancelled {WAITS}\n"
    assert f"{FAILED} has already failed; `kubefunc clean {FAILED}` deletes it." in result.stderr
    assert shell.cluster.deleted == [f"{kind}/{call}" for call in (RUNS, WAITS) for kind in ("jobs", "secrets")]


def test_clean_asks_on_a_terminal(shell: Shell) -> None:
    """And deletes finished calls alone; what runs stays."""
    code, screen = on_terminal([*PROGRAM, "clean"], shell.env, answers=[("[y/N]", b"y\n")])
    assert code == 0
    assert f"deleted {FAILED} (failed)" in screen
    assert shell.cluster.deleted == [f"jobs/{FAILED}", f"secrets/{FAILED}"]


@pytest.mark.parametrize(("typed", "code"), [(b"n\n", 1), (CTRL_C, 130)])
def test_clean_deletes_nothing_without_a_yes(typed: bytes, code: int, shell: Shell) -> None:
    """Neither after a no nor after Ctrl-C."""
    assert on_terminal([*PROGRAM, "clean"], shell.env, answers=[("[y/N]", typed)])[0] == code
    assert shell.cluster.deleted == []


def test_clean_in_a_script_wants_yes(shell: Shell) -> None:
    """Nobody is there to be asked; --dry-run only says what would be deleted."""
    assert shell.run("clean").returncode == 2
    assert shell.run("clean", "--dry-run").stdout == f"would delete {FAILED} (failed)\n"
    assert shell.cluster.deleted == []
    assert shell.run("clean", "--yes", "--older-than", "36500d").stderr == "Nothing to delete in the namespace team.\n"
    assert shell.run("clean", "--yes").stdout == f"deleted {FAILED} (failed)\n"


def test_clean_leaves_an_unfinished_call_alone(shell: Shell) -> None:
    """Also where it is named."""
    result = shell.run("clean", "--yes", RUNS)
    assert f"{RUNS} is running; `kubefunc cancel {RUNS}` stops it." in result.stderr
    assert shell.cluster.deleted == []


# -- all of them


def test_without_a_cluster(clean_env: dict[str, str]) -> None:
    """The reason is told: calls on this machine end with their program."""
    result = subprocess.run([*PROGRAM, "ls"], env=clean_env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "no cluster configured" in result.stderr


def test_ids_complete_in_the_shell(shell: Shell) -> None:
    """Those that a command is for: cancel offers what has not finished."""
    words = {"COMP_WORDS": "kubefunc cancel ", "COMP_CWORD": "2", "_KUBEFUNC_COMPLETE": "bash_complete"}
    result = subprocess.run(
        [sys.executable, "-c", "from kubefunc.cli import main; main(prog_name='kubefunc')"],
        env={**shell.env, **words},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout.split() == [f"plain,{call}" for call in (MAP, WAITS, RUNS)]


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_scripts(name: str, clean_env: dict[str, str]) -> None:
    """Each is for the command ``kubefunc``."""
    result = subprocess.run([*PROGRAM, "completion", name], env=clean_env, capture_output=True, text=True, timeout=60)
    assert f"_KUBEFUNC_COMPLETE={name}_complete" in result.stdout
