"""Every mistake a user can make: one clear line, the right exit code, no partial output."""

import resource
import socket

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.clips import audio_only
from tests.conftest import REDIS_BINARIES, WALKWAY, RedisServer, free_port

DONE, FAILED, USAGE = 0, 1, 2


def assert_refused(result, code, *words):
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    lines = [line for line in result.stderr.strip().splitlines() if " INFO " not in line]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture
def unreadable(tmp_path):
    """Files that are not videos, by name."""
    (tmp_path / "text.mp4").write_text("this is a shopping list\n" * 50)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "directory").mkdir()
    audio_only(tmp_path / "audio.mp4")
    (tmp_path / "headless.mp4").write_bytes(WALKWAY.read_bytes()[300_000:500_000])
    return tmp_path


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("missing.mp4", USAGE, "no such file"),
        ("directory", USAGE, "is a directory"),
        ("text.mp4", FAILED, "not a video"),
        ("empty.mp4", FAILED, "is empty"),
        ("audio.mp4", FAILED, "no video stream"),
        ("headless.mp4", FAILED, "not a video"),
    ],
)
def test_replay_refuses_a_file_that_is_not_a_video(cli, unreadable, name, code, words):
    result = cli("replay", unreadable / name, "--output", unreadable / "tags.jsonl")
    assert_refused(result, code, name, words)
    assert not list(unreadable.glob("*tags*"))


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("missing.mp4", USAGE, "no such file"),
        ("directory", USAGE, "is a directory"),
        ("text.mp4", FAILED, "not a video"),
        ("audio.mp4", FAILED, "no video stream"),
    ],
)
def test_run_refuses_a_file_that_is_not_a_video(cli, unreadable, name, code, words):
    assert_refused(cli("run", unreadable / name), code, name, words)
    assert not (unreadable / "state").exists()


def test_run_refuses_a_folder_of_pictures_and_a_moving_webp_and_says_what_takes_them(cli, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    first, second = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    first.save(folder / "a.png")
    first.save(tmp_path / "x.webp", save_all=True, append_images=[second], duration=100)
    for source in (folder, tmp_path / "x.webp"):
        assert_refused(cli("run", source), USAGE, str(source), "`ssd-worker replay")


@pytest.mark.parametrize("command", ["replay", "run"])
def test_a_file_over_a_limit_is_refused_with_the_flag_of_the_limit(cli, tmp_path, command):
    result = cli(command, WALKWAY, "--max-pixels", "1000")
    assert_refused(result, FAILED, "768x576", "1000 pixels", "--max-pixels")
    assert not (tmp_path / "state").exists()


def test_a_url_that_is_not_a_camera_s_is_refused_without_being_shown(cli):
    result = cli("run", "gate=file:///etc/s3kret")
    assert_refused(result, USAGE, "gate", "rtsp://")
    assert "s3kret" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "ssd_mobilenet"), "did you mean ssd_mobilenet_v2_oid"),
        (("--model", "ssd300_vgg16"), "--weights coco"),
        (("--weights", "missing.safetensors"), "no such file"),
        (("--labels", "Person,Zebra"), "does not know Zebra: it knows Bicycle"),
        (("--labels", ""), "--labels"),
        (("--device", "cuda:99"), "cuda"),
        (("--device", "gpu"), "expected auto, cpu"),
        (("--hwaccel", "banana"), "--hwaccel"),
        (("--hwaccel", "cuda", "--device", "cpu"), "use auto or none"),
        (("--precision", "fp8"), "--precision"),
        (("--precision", "fp16", "--device", "cpu"), "needs a CUDA device"),
        (("--max-batch", "0"), "--max-batch"),
        (("--score-threshold", "1"), "--score-threshold"),
        (("other.mp4", "--annotate", "both.mp4"), "replay one recording at a time"),
        (("--stride", "2", "--fps", "5"), "give one of them"),
        (("--stride", "x"), "--stride"),
        (("--output", "tags.csv"), "expected .jsonl, .parquet or .json"),
        (("--annotate", "video.avi"), "expected .mp4"),
        (("--output", "nowhere/tags.jsonl"), "the directory nowhere does not exist"),
        (("--redis-url", "none"), "nowhere to write"),
        (("--redis-url", "http://localhost"), "expected redis://"),
        (("--redis-url", "redis://localhost:notaport"), "redis-url"),
        (("--config", "missing.toml"), "missing.toml"),
        (("--bogus",), "unrecognized arguments: --bogus"),
        (("--output",), "--output"),
    ],
)
def test_replay_refuses_options_that_cannot_work(cli, tmp_path, arguments, words):
    assert_refused(cli("replay", WALKWAY, *arguments), USAGE, words)
    assert not (tmp_path / "state").exists()
    assert not list(tmp_path.glob("*tags*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "cuda"), "no usable CUDA device here: use cpu or auto"),
        (("--device", "cuda", "--hwaccel", "cuda"), "no usable CUDA device here"),
        (("--hwaccel", "cuda"), "--hwaccel cuda: the detector does not run on CUDA"),
    ],
)
@pytest.mark.parametrize("command", ["replay", "run"])
def test_cuda_without_a_gpu_is_refused_before_anything_is_created(
    cli, tmp_path, command, arguments, words
):
    output = ("--output", tmp_path / "tags.jsonl") if command == "replay" else ()
    assert_refused(cli(command, WALKWAY, *output, *arguments), USAGE, words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ""),
        (("walk",), "unknown command 'walk'"),
        (("rtsp://u:pa'ss\\word1@h/x",), "unknown command 'rtsp://h'"),
        (("run",), "give SOURCE, such as rtsp://HOST/PATH, or --cameras FILE"),
        (("run", "bad id=rtsp://host/x"), "camera id 'bad id'"),
        (("run", "rtsp://host/x", "rtsp://host/x"), "CAMERA_ID=SOURCE"),
        (("run", "rtsp://host/x", "--redis-url", "none"), "nowhere to publish"),
        (("run", "rtsp://host/x", "--publish", "some"), "--publish"),
        (("run", "rtsp://host/x", "--hwaccel", "banana"), "--hwaccel"),
        (("run", "rtsp://host/x", "--transport", "rtp"), "--transport"),
        (("cameras",), "give FILE, or --config FILE"),
        (("cameras", "missing.toml"), "missing.toml: No such file"),
        (("cameras", "x.toml", "--fps", "0"), "--fps"),
        (("subscribe", "--consumer", "me"), "--group"),
        (("subscribe", "--from", "yesterday"), "--from"),
        (("subscribe", "bad id"), "camera id 'bad id'"),
        (("subscribe", "--redis-url", "none"), "no events to read"),
    ],
)
def test_other_commands_refuse_what_cannot_work(cli, arguments, words):
    result = cli(*arguments)
    assert result.returncode == USAGE
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_key_in_the_config_file_is_named(cli, tmp_path):
    (tmp_path / "worker.toml").write_text('modle = "ssd300_vgg16"\n')
    result = cli("replay", WALKWAY, "--config", "worker.toml")
    assert_refused(result, USAGE, "worker.toml", "modle")


CAMERAS = """\
[cameras.gate]
source = "rtsp://{GATE_USER}:s3kret-pw@gate.local/x"
fps = 0
[cameras.yard]
source = "gopher://admin:s3kret-pw@yard.local/x"
tiles = "2x2"
[cameras.door]
source = "rtsp://door.local/x"
"""


def test_every_mistake_in_a_file_of_cameras_is_a_line_of_its_own_beside_what_would_run(
    cli, tmp_path
):
    (tmp_path / "cameras.toml").write_text(CAMERAS)
    result = cli("cameras", "cameras.toml")
    assert result.returncode == USAGE
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["CAMERA", "door"]
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == [
        "cameras.toml:2",
        "cameras.toml:3",
        "cameras.toml:5",
        "cameras.toml:6",
    ]
    assert "s3kret" not in result.stdout + result.stderr


def test_a_right_file_of_cameras_is_checked_without_leaving_anything_behind(cli, tmp_path):
    (tmp_path / "worker.toml").write_text("fps = 3\n[cameras.gate]\nsource = 'rtsp://gate/x'\n")
    result = cli("cameras", "--config", "worker.toml")
    assert (result.returncode, result.stderr) == (DONE, "")
    assert result.stdout.splitlines()[1].split()[:3] == ["gate", "rtsp://gate", "3"]
    assert list(tmp_path.iterdir()) == [tmp_path / "worker.toml"]


def test_an_unreachable_redis_is_one_line_without_the_password(cli, short_clip):
    url = f"redis://user:s3cr%40t@127.0.0.1:{free_port()}/0"
    result = cli("replay", short_clip, "--redis-url", url)
    assert_refused(result, FAILED, "no Redis answers at 127.0.0.1:", "--redis-url")
    assert "s3cr" not in result.stderr


def test_a_wrong_redis_password_is_one_line_without_the_password(cli, short_clip, tmp_path):
    (tmp_path / "locked").mkdir()
    server = RedisServer(
        REDIS_BINARIES["valkey"], tmp_path / "locked", "--requirepass", "right-one"
    )
    try:
        for login in (":wr0ng@", ""):
            url = f"redis://{login}127.0.0.1:{server.port}"
            result = cli("replay", short_clip, "--redis-url", url)
            assert_refused(result, FAILED, "refused the login")
            assert "wr0ng" not in result.stderr
    finally:
        server.stop()


def test_a_taken_port_of_the_embedded_server_is_named_and_left_alone(cli, short_clip):
    with socket.create_server(("127.0.0.1", cli.port)):
        result = cli("replay", short_clip)
    assert_refused(result, FAILED, f"port {cli.port} is taken", "--embedded-port")


def test_a_foreign_redis_on_the_embedded_port_is_not_written_to(cli, short_clip, valkey_server):
    result = cli("replay", short_clip, "--embedded-port", valkey_server.port)
    assert_refused(result, FAILED, f"port {valkey_server.port} is taken")
    assert valkey_server.client.dbsize() == 0


def test_an_output_that_exists_is_kept_unless_overwriting_is_allowed(cli, short_clip, tmp_path):
    output = tmp_path / "tags.jsonl"
    output.write_text("precious\n")
    assert_refused(cli("replay", short_clip, "--output", output), USAGE, "--overwrite")
    assert output.read_text() == "precious\n"
    assert cli("replay", short_clip, "--output", output, "--overwrite").returncode == DONE
    assert len(output.read_text().splitlines()) == 41


def test_a_recording_is_never_overwritten_by_its_own_annotation(cli, short_clip, tmp_path):
    mine = tmp_path / "mine.mp4"
    mine.write_bytes(short_clip.read_bytes())
    result = cli("replay", mine, "--annotate", mine, "--overwrite")
    assert_refused(result, USAGE, "is the recording itself")
    assert mine.read_bytes() == short_clip.read_bytes()


def test_a_url_given_to_replay_is_refused_without_being_shown(cli):
    result = cli("replay", "rtsp://admin:s3kret@host/x")
    assert_refused(result, USAGE, "ssd-worker run")
    assert "s3kret" not in result.stderr


def test_an_output_that_cannot_be_written_is_refused_before_the_work(cli, short_clip):
    result = cli("replay", short_clip, "--output", "/proc/tags.jsonl")
    assert_refused(result, USAGE, "/proc/tags.jsonl", "cannot write there")


@pytest.mark.long
def test_a_full_disk_ends_the_replay_with_one_line_and_the_next_run_resumes(
    exec_cli, short_clip, tmp_path
):
    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    output = tmp_path / "tags.jsonl"
    replay = ("replay", short_clip, "--output", output)
    result = exec_cli(*replay, preexec_fn=limit_file_size)
    assert_refused(result, FAILED, str(output), "cannot write")
    assert not output.exists()

    again = exec_cli(*replay)
    assert again.returncode == DONE, again.stderr
    assert "resuming after" in again.stderr
    assert len(output.read_text().splitlines()) == 41


def test_a_state_directory_that_cannot_be_written_is_one_line(cli, short_clip):
    result = cli("replay", short_clip, "--state-dir", "/proc/x")
    assert_refused(result, FAILED, "/proc/x", "--state-dir")


def test_an_unfinished_replay_with_other_settings_is_not_mixed_with_this_one(cli, tmp_path):
    leftover = tmp_path / "tags.jsonl.partial-0123456789ab"
    leftover.write_text("")
    replay = ("replay", WALKWAY, "--output", tmp_path / "tags.jsonl", "--stride", 15)
    assert_refused(cli(*replay), USAGE, leftover.name, "--restart")
    assert cli(*replay, "--restart").returncode == DONE
    assert not leftover.exists()


BUNDLED = WALKWAY.parent.parent / "ssd_core" / "weights" / "ssd_mobilenet_v2_oid.safetensors"


def test_weights_of_another_model_are_refused(cli):
    result = cli("replay", WALKWAY, "--model", "ssd300_vgg16", "--weights", BUNDLED)
    assert_refused(result, USAGE, "it is for 'ssd_mobilenet_v2_oid', not for ssd300_vgg16")


def test_a_checkpoint_that_does_not_fit_names_the_first_tensors(cli, tmp_path):
    weights = tmp_path / "bare.safetensors"
    save_file(load_file(BUNDLED), weights)  # without what says whose weights they are
    result = cli("replay", WALKWAY, "--model", "ssd300_vgg16", "--weights", weights)
    assert_refused(result, USAGE, "do not fit ssd300_vgg16", "expected [", "found")
