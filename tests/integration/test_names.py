"""Names of files that look like something else, in whole commands."""

import json
import shutil

import pytest

from tests.clips import cut
from tests.conftest import WALKWAY

NAMES = [
    ("a:b", ".jsonl"),
    ("http:x", ".parquet"),
    ("{NAME}, [1]", ".json"),
    (" null 'quoted'", ".jsonl"),
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return cut(WALKWAY, tmp_path_factory.mktemp("names") / "clip.mp4", frames=3)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "suffix"),
    [*NAMES[:2], *(pytest.param(*name, marks=pytest.mark.long) for name in NAMES[2:])],
)
def test_a_replay_reads_and_writes_files_of_any_name(cli, clip, name, suffix):
    shutil.copy(clip, cli.cwd / f"{name}.mp4")
    ended = cli(
        "replay", f"clip={name}.mp4", f"--output={name}{suffix}", f"--annotate={name}.drawn.mp4"
    )
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in cli.cwd.iterdir() if path.is_file()) == sorted(
        [f"{name}.mp4", f"{name}.drawn.mp4", f"{name}{suffix}"]
    )
    assert all(path.stat().st_size for path in cli.cwd.iterdir())


def test_a_file_named_by_a_variable_is_replayed(cli, clip):
    shutil.copy(clip, cli.cwd / "a, b.mp4")
    cli.env |= {"SSD_WORKER_PATHS": "a, b.mp4", "SSD_WORKER_OUTPUT": "x.jsonl"}
    assert cli("replay").returncode == 0
    assert len((cli.cwd / "x.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "caf\udce9.mp4"],
        ["run", "gate=caf\udce9.mp4"],
        ["replay", "caf\udce9.mp4"],
        ["replay", "x.mp4", "--output", "caf\udce9.jsonl"],
        ["replay", "x.mp4", "--annotate=caf\udce9.mp4"],
        ["replay", "x.mp4", "--weights", "caf\udce9.safetensors"],
        ["run", "x.mp4", "--config", "caf\udce9.toml"],
        ["run", "--cameras", "caf\udce9.toml"],
        ["run", "x.mp4", "--secrets", "caf\udce9"],
        ["cameras", "caf\udce9.toml"],
        ["subscribe", "caf\udce9"],
        ["caf\udce9"],
    ],
    ids=lambda arguments: " ".join(arguments).encode("ascii", "backslashreplace").decode(),
)
def test_a_name_that_is_not_utf_8_is_one_line(cli, arguments):
    ended = cli(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1, ended.stderr


@pytest.mark.parametrize("variable", ["OUTPUT", "PATHS", "CONFIG", "WEIGHTS"])
def test_a_variable_that_is_not_utf_8_is_one_line(cli, variable):
    cli.env[f"SSD_WORKER_{variable}"] = "caf\udce9.jsonl"
    ended = cli("replay", "x.mp4")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)


def test_a_missing_file_with_line_breaks_in_its_name_is_one_line(cli):
    ended = cli("replay", "two\nlines\u2028.mp4")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert "no such file" in ended.stderr


def test_a_file_name_with_braces_refers_to_no_secret(cli, clip):
    cli.env["GATE"] = "s3kr3t-word"
    shutil.copy(clip, cli.cwd / "{GATE}.mp4")
    (cli.cwd / "cameras.toml").write_text('[cameras.gate]\nsource = "{GATE}.mp4"\n')
    checked = cli("cameras", "cameras.toml", "--json")
    assert json.loads(checked.stdout)["cameras"][0]["source"] == "{GATE}.mp4"
