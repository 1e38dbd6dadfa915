import pytest
from hypothesis import given, strategies as st

from worker.settings.toml_lines import Document, TomlError


def line(text, *key):
    return Document(text).line(*key)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[cameras.gate]\nfps = 5\n", 2),
        ("\n# [cameras.gate]\n\n[cameras.gate]  # fps = 1\n\nfps = 5", 6),
        ("cameras.gate.fps = 5\n", 1),
        ("[cameras]\ngate.source = 'x'\ngate.fps = 5\n", 3),
        ("[cameras]\n\ngate = { source = 'x', fps = 5 }\n", 3),
        ("[ cameras . \"gate\" ]\n'fps' = 5\n", 2),
        ('[cameras."g\\u0061te"]\n\n"f\\u0070s" = 5\n', 3),
        ("[cameras.yard]\nfps = 1\n[cameras.gate]\nfps = 5\n", 4),
        ("[cameras.gate]\r\nsource = 'x'\r\nfps = 5\r\n", 3),
        ("[cameras.gate]\nlabels = [ # ]\n 'a', ']',\n\n]\nfps = 5\n", 6),
        ("[cameras.gate]\nignore = [[\n[0, 0], [1, 0]\n], [\n]]\nfps = 5\n", 6),
        ('[cameras.gate]\nsource = """\n[cameras.gate]\nfps = 1\n"""\nfps = 5\n', 6),
        ('[cameras.gate]\nsource = """a\\"""\nfps = 1 """""\nfps = 5\n', 4),
        ("[cameras.gate]\nsource = '''\nfps = 1 # '\\'''\nfps = 5\n", 4),
        ("[cameras.gate]\nsource = 'C:\\'  # it's \"\nfps = 5\n", 3),
        ('[cameras.gate]\nsource = "a # b [ \\" ]"\nfps = 5\n', 3),
    ],
)
def test_a_key_is_found_however_it_is_written(text, expected):
    assert line(text, "cameras", "gate", "fps") == expected


def test_a_key_that_is_missing_is_looked_for_in_the_table_around_it():
    text = "\n[cameras.gate]\nfps = 5\n"
    assert line(text, "cameras", "gate", "source") == 2
    assert line(text, "cameras", "yard", "source") == 2
    assert line(text, "other") is None


def test_a_table_of_a_table_is_found_by_its_header():
    text = "[cameras.gate]\nsource = 'x'\n[cameras.gate.zones.lawn]\npolygon = []\n"
    assert line(text, "cameras", "gate", "zones") == 3
    assert line(text, "cameras", "gate", "zones", "lawn", "polygon") == 4


def test_an_array_of_tables_is_found_by_its_first_header():
    text = "[[cameras]]\nid = 'gate'\n[[cameras]]\nid = 'yard'\n"
    assert line(text, "cameras") == 1
    assert line(text, "cameras", "id") == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[cameras.gate]\nsource = rtsp://h\n", 2),
        ("[cameras.gate]\nfps = 5\nfps = 6\n", 3),
        ("[cameras.gate]\n\n[cameras.gate]\n", 3),
        ("\n\nlabels = [1,\n2\n", 4),
        ("x = 1" + "0" * 5000, None),
    ],
)
def test_what_is_not_toml_is_refused_with_its_line(text, expected):
    with pytest.raises(TomlError) as caught:
        Document(text)
    assert caught.value.line == expected
    assert "line" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "['s3kret']\n['s3kret']",
        "'s3kret' = {}\n['s3kret'.x]",
        "'s3kret' = 1\n's3kret' = 2",
        "[a]\n's3kret'.x = 1\n[a.'s3kret']",
        "\na = {'s3kret' = 1, 's3kret' = 2}",
    ],
)
def test_a_key_given_twice_is_refused_without_being_quoted(text):
    with pytest.raises(TomlError, match="not TOML: a table or key is given twice") as caught:
        Document(text)
    assert caught.value.line in (2, 3)


def test_brackets_and_dots_of_any_depth_are_one_error_or_a_key():
    with pytest.raises(TomlError, match="nested"):
        Document("x = " + "[" * 20_000 + "]" * 20_000)
    deep = ".".join(["x"] * 2000)
    assert line(f"\n{deep} = 1\ny = 2", "y") == 3


keys = st.sampled_from(["a", '"b.c"', "'d#'", "e . f", '"\\t"'])
values = st.sampled_from(
    ["1", "'#'", '"\\""', '"""\n\n"""', "'''[\n'''", "[\n1,\n# ]\n]", "[[{a=1}],\n]", "1979-05-27"]
)
noise = st.sampled_from(["", "# x = '", " ", "\t# ]"])


@given(st.lists(st.tuples(noise, keys, values, noise), max_size=8))
def test_every_statement_begins_where_it_was_written(statements):
    text, expected = "", {}
    for number, (before, key, value, after) in enumerate(statements):
        expected[f"table{number}"] = text.count("\n") + 2
        text += f"{before}\n[table{number}] {after}\n{key} = {value} {after}\n"
    document = Document(text)
    assert {name: document.line(name) for name in document.content} == expected
    for name, header in expected.items():
        (key,) = document.content[name]
        assert document.line(name, key) == header + 1
