import pytest

from worker.errors import UsageError
from worker.secrecy.redaction import redact
from worker.settings.naming import check_source, parse_sources


@pytest.mark.parametrize(
    ("argument", "camera_id", "source"),
    [
        ("gate=rtsp://host/stream", "gate", "rtsp://host/stream"),
        ("rtsp://host:554/live/main", "host", "rtsp://host:554/live/main"),
        ("rtsp://user:secret@host/x?token=abc", "host", "rtsp://user:secret@host/x?token=abc"),
        ("/videos/Front Door (1).mp4", "Front-Door--1-", "/videos/Front Door (1).mp4"),
        ("http://host/a=b.mp4", "host", "http://host/a=b.mp4"),
        ("a.b_c-9=x.mp4", "a.b_c-9", "x.mp4"),
        ("/videos/" + "x" * 99 + ".mp4", "x" * 64, "/videos/" + "x" * 99 + ".mp4"),
        ("gate=rtsp://host/x?a=b", "gate", "rtsp://host/x?a=b"),
        ("clip.mp4", "clip", "clip.mp4"),
        ("/", "camera", "/"),
        ("gate=//[1]/clip.mp4", "gate", "//[1]/clip.mp4"),  # a path, whose parts are not a host's
    ],
)
def test_ids_are_taken_or_made_from_the_source(argument, camera_id, source):
    assert parse_sources([argument]) == {camera_id: source}


def test_a_file_whose_name_has_an_equals_sign_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.mp4").touch()
    assert parse_sources(["a=b.mp4"]) == {"a-b": "a=b.mp4"}


@pytest.mark.parametrize("camera_id", ["", "a b", "ü", "x" * 65, "a:b", "{a}"])
def test_other_ids_are_refused(camera_id):
    with pytest.raises(UsageError, match="camera id"):
        parse_sources([f"{camera_id}=rtsp://host/x"])


def test_an_id_without_a_source_is_refused():
    with pytest.raises(UsageError, match="no source"):
        parse_sources(["gate="])


def test_two_sources_with_one_id_are_refused_with_the_way_out():
    with pytest.raises(UsageError, match="CAMERA_ID=SOURCE"):
        parse_sources(["/a/clip.mp4", "/b/clip.mp4"])


@pytest.mark.parametrize("named", ["", "gate="])
@pytest.mark.parametrize("start", ["", "1@", "12@ab:"])  # what is behind an @ looks like a host
@pytest.mark.parametrize("character", "/#?[")
def test_a_url_that_cannot_be_read_is_refused_without_being_shown(named, start, character):
    with pytest.raises(UsageError, match="%40") as caught:
        parse_sources([f"{named}rtsp://admin:{start}before{character}after@host/x"])
    assert "before" not in str(caught.value)
    assert "after" not in str(caught.value)
    assert named.rstrip("=") in str(caught.value)


@pytest.mark.parametrize(
    "source", ["admin:secret@host/x", "gate=admin:secret@host/x", "rtsp:/admin:secret@host/x?a=b"]
)
def test_a_url_without_its_protocol_is_refused_without_being_shown(source):
    with pytest.raises(UsageError, match="rtsp://") as caught:
        parse_sources([source])
    assert "secret" not in str(caught.value)


def test_a_file_with_an_at_sign_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "door@noon.mp4").touch()
    assert parse_sources(["door@noon.mp4"]) == {"door-noon": "door@noon.mp4"}
    assert parse_sources(["a=door@noon.mp4"]) == {"a": "door@noon.mp4"}


def test_a_login_that_ffmpeg_would_cut_is_refused():
    longest = f"rtsp://admin:{'%40' * 40}x@host/x"
    assert parse_sources([longest]) == {"host": longest}
    with pytest.raises(UsageError, match=r"camera gate: .* 128 bytes in the URL, but FFmpeg"):
        parse_sources([f"gate=rtsp://admin:{'%40' * 40}xx@host/x"])


def test_a_password_in_the_path_is_no_part_of_the_id():
    url = "rtsp://10.0.0.9:554/user=admin&password=tlJwpbo6&stream=0.sdp"
    assert list(parse_sources([url])) == ["10.0.0.9"]


def test_only_rtsp_logins_have_a_limit():
    url = f"http://admin:{'x' * 200}@host/x"
    assert parse_sources([url]) == {"host": url}


@pytest.mark.parametrize("source", ["admin:secret@host/x", "rtsp://admin:sec/ret@host/x"])
def test_a_source_that_cannot_be_meant_is_refused_also_where_its_id_is_already_known(source):
    with pytest.raises(UsageError, match=r"USER:PASSWORD|%40") as caught:
        check_source(source)
    assert "sec" not in str(caught.value)


def test_passwords_of_sources_are_hidden_from_then_on():
    parse_sources(["gate=rtsp://admin:never-shown@host/x"])
    assert redact("the password never-shown") == "the password ***"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("\udcff.mp4", "a source is not UTF-8 text: rename the file that it names"),
        ("rtsp://host/\udcff", "a source is not UTF-8 text"),
        ("a\0b.mp4", "a source contains a NUL character"),
        ("rtsp://host/a\0b", "a source contains a NUL character"),
    ],
)
def test_what_no_file_and_no_url_can_have_is_refused(source, said):
    for call in (check_source, lambda source: parse_sources([source])):
        with pytest.raises(UsageError, match=f"^{said}"):
            call(source)


def test_an_empty_source_is_refused():
    with pytest.raises(UsageError, match="a source is empty"):
        parse_sources([""])


def test_a_name_that_is_too_long_for_a_file_is_none():
    long = "x" * 5000
    assert parse_sources([f"gate={long}"]) == {"gate": long}
    with pytest.raises(UsageError, match="contains an @ and is not an existing file"):
        check_source(f"{long}@host")


@pytest.mark.parametrize("url", ["rtsp:///stream", "rtsp://:554/stream", "file:///clip.mp4"])
def test_a_url_without_a_host_needs_one_where_no_id_is_given(url):
    with pytest.raises(UsageError, match="names no host: write rtsp://HOST/PATH"):
        parse_sources([url])
