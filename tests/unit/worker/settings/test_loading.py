from pathlib import Path

import pytest

from worker.errors import UsageError
from worker.settings.fields import (
    COMMANDS,
    CamerasSettings,
    ReplaySettings,
    RunSettings,
    SubscribeSettings,
)
from worker.settings.loading import IN_WORDS, load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    import os

    for name in [n for n in os.environ if n.startswith("SSD_WORKER_")]:
        monkeypatch.delenv(name)


def run_settings(*arguments):
    return load_settings(RunSettings, "run", list(arguments))


def test_flag_beats_environment_beats_file_beats_default(monkeypatch, tmp_path):
    file = tmp_path / "worker.toml"
    file.write_text('max_batch = 2\nmax_wait_ms = 7\nlabels = ["Person"]\n')
    monkeypatch.setenv("SSD_WORKER_MAX_BATCH", "3")
    settings = run_settings("cam.mp4", "--config", str(file))
    assert (settings.max_batch, settings.max_wait_ms, settings.labels) == (3, 7, ["Person"])
    assert settings.publish == "detections"
    assert run_settings("cam.mp4", "--config", str(file), "--max-batch", "4").max_batch == 4


def test_the_file_can_be_named_by_the_environment(monkeypatch, tmp_path):
    file = tmp_path / "worker.toml"
    file.write_text("loop = true\n")
    monkeypatch.setenv("SSD_WORKER_CONFIG", str(file))
    assert run_settings("cam.mp4").loop is True
    assert run_settings("cam.mp4", "--no-loop").loop is False


@pytest.mark.parametrize(
    "arguments", [("--labels", "Person,Car"), ("--labels", "Person", "--labels", "Car")]
)
def test_labels_come_in_one_list_or_one_by_one(arguments):
    assert run_settings("cam.mp4", *arguments).labels == ["Person", "Car"]


@pytest.mark.parametrize(
    "source",
    [
        "friday, noon.mp4",
        "[gate] friday.mp4",
        "{gate}.mp4",
        ' "quoted" \\ 1.mp4',
        "gate=rtsp://admin:pass,word@10.0.0.7/h264",
        "2026",
    ],
)
def test_a_source_is_taken_as_it_is_typed(source):
    assert run_settings(source, "yard.mp4", "--labels", "Person,Car").sources == [
        source,
        "yard.mp4",
    ]
    assert load_settings(ReplaySettings, "replay", ["--stride", "2", source]).paths == [source]


def test_nothing_is_compiled_and_the_decoder_is_chosen_unless_asked(monkeypatch):
    settings = run_settings("cam.mp4")
    assert (settings.compile, settings.hwaccel) == (False, "auto")
    assert run_settings("cam.mp4", "--compile", "--hwaccel", "none").compile is True
    monkeypatch.setenv("SSD_WORKER_HWACCEL", "cuda")
    assert run_settings("cam.mp4").hwaccel == "cuda"


@pytest.mark.parametrize("option", ["--fps", "--watchdog-seconds"])
@pytest.mark.parametrize("value", ["inf", "nan", "1e999"])
def test_a_number_that_is_not_finite_is_refused(option, value):
    with pytest.raises(UsageError, match=f"{option}: input should be a finite number"):
        run_settings("cam.mp4", option, value)


def test_an_unknown_decoder_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"--hwaccel: .*'auto', 'cuda' or 'none'"):
        run_settings("cam.mp4", "--hwaccel", "banana")


def test_a_text_of_a_wrong_form_is_refused_in_words_and_not_with_a_pattern():
    with pytest.raises(UsageError, match=r"^--from: use start, new or the id of an entry, such as"):
        load_settings(SubscribeSettings, "subscribe", ["--from", "12x"])
    with pytest.raises(UsageError, match=r"^--key-prefix: use letters, digits, '.', '_' and '-'$"):
        run_settings("cam.mp4", "--key-prefix", "a b")


def test_every_pattern_of_a_setting_has_words():
    patterns = {
        name
        for settings_class in COMMANDS.values()
        for name, field in settings_class.model_fields.items()
        if any(getattr(rule, "pattern", None) for rule in field.metadata)
    }
    assert patterns == IN_WORDS.keys()


def test_labels_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("SSD_WORKER_LABELS", "Person, Computer mouse")
    assert run_settings("cam.mp4").labels == ["Person", "Computer mouse"]


def test_a_file_may_hold_settings_of_other_commands(tmp_path):
    file = tmp_path / "worker.toml"
    file.write_text('stride = 5\ngroup = "alerts"\nkey_prefix = "site1"\n')
    assert run_settings("cam.mp4", "--config", str(file)).key_prefix == "site1"


def test_a_bad_value_in_the_environment_is_named_without_the_value(monkeypatch):
    monkeypatch.setenv("SSD_WORKER_MAX_BATCH", "s3cret")
    with pytest.raises(UsageError, match="--max-batch: input should be") as caught:
        run_settings("cam.mp4")
    assert "s3cret" not in str(caught.value)


def test_a_file_that_is_no_toml_is_named(tmp_path):
    (tmp_path / "worker.toml").write_text("max_batch: 3\n")
    with pytest.raises(UsageError, match=r"--config .*worker\.toml:1: not TOML: "):
        run_settings("cam.mp4", "--config", str(tmp_path / "worker.toml"))


@pytest.mark.parametrize("text", ["'{0}' = 1\n'{0}' = 2\n", "'{0}' = 1\n"])
def test_a_url_that_is_a_key_of_the_file_is_not_shown(tmp_path, text):
    (tmp_path / "worker.toml").write_text(text.format("user:s3kret@host"))
    with pytest.raises(UsageError, match=r"worker\.toml") as caught:
        run_settings("cam.mp4", "--config", str(tmp_path / "worker.toml"))
    assert "s3kret" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        ((), "embedded"),
        (("--output", "x.jsonl"), "none"),
        (("--annotate", "x.mp4"), "none"),
        (("--output", "x.jsonl", "--redis-url", "redis://h"), "redis://h"),
    ],
)
def test_a_replay_publishes_to_redis_unless_it_has_a_file(arguments, url):
    settings = load_settings(ReplaySettings, "replay", ["x.avi", *arguments])
    assert settings.effective_redis_url == url


def test_from_is_the_flag_of_the_start_and_options_may_stand_before_cameras():
    settings = load_settings(SubscribeSettings, "subscribe", ["--from", "start", "gate", "yard"])
    assert (settings.start, settings.cameras) == ("start", ["gate", "yard"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_description(command):
    for name, field in COMMANDS[command].model_fields.items():
        assert field.description, name


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_and_exits_with_zero(command, capsys):
    with pytest.raises(SystemExit) as caught:
        load_settings(COMMANDS[command], command, ["--help"])
    assert caught.value.code == 0
    assert f"ssd-worker {command}" in capsys.readouterr().out


@pytest.fixture
def shared_file(tmp_path):
    """A file that commands share, and what it says about cameras."""

    def shared_file(cameras):
        (tmp_path / "worker.toml").write_text(f"key_prefix = 'site1'\n{cameras}\n")
        return str(tmp_path / "worker.toml")

    return shared_file


CAMERA_TABLE = "[cameras.gate]\nsource = 'rtsp://gate/x'"


def test_the_cameras_of_run_are_a_file_in_the_config_as_on_the_command_line(shared_file):
    config = shared_file("cameras = 'cameras.toml'")
    assert run_settings("--config", config).cameras == Path("cameras.toml")
    assert run_settings("--config", config, "--cameras", "x.toml").cameras == Path("x.toml")


def test_tables_of_cameras_in_the_config_are_not_the_file(shared_file):
    config = shared_file(CAMERA_TABLE)
    assert run_settings("--config", config).cameras is None
    assert run_settings("--config", config, "--cameras", "x.toml").cameras == Path("x.toml")


@pytest.mark.parametrize(
    "cameras", ["cameras = 'cameras.toml'", CAMERA_TABLE, "cameras = ['yard']"]
)
def test_a_config_with_cameras_is_shared_by_every_command(shared_file, cameras):
    config = ["--config", shared_file(cameras)]
    assert run_settings("x.mp4", *config).key_prefix == "site1"
    assert load_settings(ReplaySettings, "replay", ["x.mp4", *config]).key_prefix == "site1"
    subscribed = load_settings(SubscribeSettings, "subscribe", config).cameras
    assert subscribed == (["yard"] if "yard" in cameras else [])
    load_settings(COMMANDS["models"], "models", config)


def test_the_variable_of_cameras_names_the_file_of_run_and_leaves_other_commands_alone(monkeypatch):
    monkeypatch.setenv("SSD_WORKER_CAMERAS", "cameras.toml")
    assert run_settings().cameras == Path("cameras.toml")
    assert load_settings(CamerasSettings, "cameras", []).cameras == Path("cameras.toml")
    assert load_settings(SubscribeSettings, "subscribe", []).cameras == []
    assert load_settings(SubscribeSettings, "subscribe", ["yard"]).cameras == ["yard"]
    load_settings(ReplaySettings, "replay", ["x.mp4"])


@pytest.mark.parametrize("cameras", ["", "cameras = ['yard']", "[cameras]"])
def test_a_run_needs_a_source_or_a_file_of_cameras(shared_file, cameras):
    with pytest.raises(UsageError, match=r"give SOURCE, such as .*, or --cameras FILE"):
        run_settings("--config", shared_file(cameras))


def test_a_check_of_cameras_needs_a_file_of_them(shared_file):
    with pytest.raises(UsageError, match="give FILE, or --config FILE"):
        load_settings(CamerasSettings, "cameras", [])
    for content in ("fps = 1", "[cameras]"):
        with pytest.raises(UsageError, match="give FILE, or --config FILE"):
            load_settings(CamerasSettings, "cameras", ["--config", shared_file(content)])
    load_settings(CamerasSettings, "cameras", ["--config", shared_file(CAMERA_TABLE)])


def test_transport_is_chosen_for_all_cameras_and_only_from_what_there_is():
    assert run_settings("x").transport == "auto"
    assert run_settings("x", "--transport", "udp").transport == "udp"
    with pytest.raises(UsageError, match=r"--transport: .*'auto', 'tcp' or 'udp'"):
        run_settings("x", "--transport", "rtp")


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        ("cameras", ["x.toml", "--fps", "0"], "--fps"),
        ("subscribe", ["--from", "yesterday"], "--from"),
        ("run", ["x", "--score-threshold", "2"], "--score-threshold"),
    ],
)
def test_a_mistake_is_named_as_it_is_typed(command, arguments, named):
    with pytest.raises(UsageError, match=rf"^{named}: "):
        load_settings(COMMANDS[command], command, arguments)


@pytest.mark.parametrize("threshold", ["0", "0.999"])
def test_every_score_threshold_that_a_score_can_exceed_is_accepted(threshold):
    assert run_settings("cam.mp4", "--score-threshold", threshold).score_threshold == float(
        threshold
    )


@pytest.mark.parametrize("threshold", ["1", "1.5", "-0.001", "nan"])
def test_a_score_threshold_that_no_score_exceeds_or_that_means_nothing_is_refused(threshold):
    with pytest.raises(UsageError, match="--score-threshold"):
        run_settings("cam.mp4", f"--score-threshold={threshold}")


def test_two_recordings_cannot_be_drawn_into_one_video():
    with pytest.raises(UsageError, match="replay one recording at a time"):
        load_settings(ReplaySettings, "replay", ["a.mp4", "b.mp4", "--annotate", "x.mp4"])


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("9464", ("127.0.0.1", 9464)),
        ("0", ("127.0.0.1", 0)),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("0.0.0.0:9464", ("0.0.0.0", 9464)),
        (":9464", ("0.0.0.0", 9464)),
        ("worker.local:9464", ("worker.local", 9464)),
        ("[::1]:9464", ("::1", 9464)),
    ],
)
def test_http_is_an_address_or_a_port_of_this_machine_alone(value, address, tmp_path):
    assert run_settings("cam.mp4", "--http", value).http_address == address
    if value.isdigit():
        (tmp_path / "worker.toml").write_text(f"http = {value}\n")
        settings = run_settings("cam.mp4", "--config", str(tmp_path / "worker.toml"))
        assert settings.http_address == address


@pytest.mark.parametrize(
    "value", ["", "host", "host:", "65536", "-1", "host:x", "http://h:80", "::1", "h:80/metrics"]
)
def test_http_that_is_no_address_is_refused(value):
    with pytest.raises(UsageError, match=r"--http.*expected HOST:PORT or PORT, such as"):
        run_settings("cam.mp4", "--http", value)


def test_http_is_off_by_default():
    assert run_settings("cam.mp4").http_address is None


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--snapshot-seconds", "0.5", "greater than or equal to 1"),
        ("--snapshot-seconds", "3601", "less than or equal to 3600"),
        ("--snapshot-width", "0", "greater than or equal to 64"),
        ("--snapshot-width", "100000", "less than or equal to 3840"),
    ],
)
def test_snapshots_are_neither_more_often_nor_larger_than_they_may_be(option, value, words):
    with pytest.raises(UsageError, match=f"{option}.*{words}"):
        run_settings("rtsp://h/x", option, value)
