from urllib.parse import unquote, urlsplit

import pytest

from worker.errors import UsageError
from worker.secrecy.names import fill_in, fill_in_secret

URL = "gate=rtsp://{GATE_USER}:{GATE_PASSWORD}@camera.local/live?token={TOKEN}"
VALUES = {"GATE_USER": "ad:min", "GATE_PASSWORD": "a@b:c/d#e?f%g h{TOKEN}ü", "TOKEN": "x&y=z"}


@pytest.fixture(params=["environment", "file", "directory"])
def secrets(request, tmp_path, monkeypatch):
    """The same values in each place that they can be read from."""
    if request.param == "environment":
        for name, value in VALUES.items():
            monkeypatch.setenv(name, value)
        return None
    path = tmp_path / "secrets"
    if request.param == "directory":
        path.mkdir()
        for name, value in VALUES.items():
            (path / name).write_text(f"{value}\n")
        return path
    path.write_text("".join(f"{name} = '{value}'\n" for name, value in VALUES.items()))
    path.chmod(0o600)
    return path


def test_names_in_braces_are_replaced_and_may_contain_any_character(secrets):
    parts = urlsplit(fill_in(URL, secrets).removeprefix("gate="))
    assert unquote(parts.username) == VALUES["GATE_USER"]
    assert unquote(parts.password) == VALUES["GATE_PASSWORD"]
    assert parts.hostname == "camera.local"
    assert unquote(parts.query) == f"token={VALUES['TOKEN']}"


def test_a_secret_by_itself_may_be_a_name_in_braces_and_is_not_encoded(secrets):
    assert fill_in_secret("{GATE_PASSWORD}", secrets) == VALUES["GATE_PASSWORD"]
    for text in ("word", "{not a name}", "x{TOKEN}", ""):
        assert fill_in_secret(text, secrets) == text
    with pytest.raises(UsageError, match=r"\{NOBODYS\}"):
        fill_in_secret("{NOBODYS}", secrets)


def test_a_name_missing_in_the_file_comes_from_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "secrets.toml"
    path.write_text('USER_A = "from file"')
    path.chmod(0o640)
    monkeypatch.setenv("USER_A", "from environment")
    monkeypatch.setenv("USER_B", "b")
    assert fill_in("redis://{USER_A}:{USER_B}@h", path) == "redis://from%20file:b@h"


@pytest.mark.parametrize("text", ["clip{A}.mp4", "rtsp://host/x", "rtsp://u:{not a name}@h/x"])
def test_other_text_is_unchanged(text):
    assert fill_in(text, None) == text


def test_an_unknown_name_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(UsageError, match=r"\{NOWHERE\} is not in the environment: set it"):
        fill_in("rtsp://admin:{NOWHERE}@h/x", None)
    with pytest.raises(UsageError, match=f"neither in --secrets {tmp_path} nor in the environment"):
        fill_in("rtsp://admin:{NOWHERE}@h/x", tmp_path)


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ('P = "x"', 0o644, "every user can read it: chmod 600"),
        ("P = hunter22", 0o600, "expected lines of NAME"),
        ("P = 12345678", 0o600, 'P: expected "TEXT" in quotes'),
        (None, None, "No such file"),
    ],
)
def test_an_unusable_file_is_refused_in_one_line_without_its_content(
    tmp_path, content, mode, message
):
    path = tmp_path / "secrets.toml"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(UsageError, match=message) as caught:
        fill_in("redis://:{P}@h", path)
    assert "\n" not in str(caught.value)
    assert "hunter" not in str(caught.value)
    assert "1234" not in str(caught.value)
