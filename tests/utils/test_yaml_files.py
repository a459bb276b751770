"""Reading of YAML: whatever is invalid is one sentence with the file and the line."""

from __future__ import annotations

import pytest

from lit_viz.errors import LitVizError
from lit_viz.utils.yaml_files import parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed: !!bool maybe", "line 1: 'maybe' is no value of the tag !!bool"),
        ("out: a\nseed: !!timestamp x", "line 2: 'x' is no value of the tag !!timestamp"),
        ('seed: !!int ""', "line 1: '' is no value of the tag !!int"),
        ('seed: [!!float ""]', "line 1: '' is no value of the tag !!float"),
        ("date: 2020-13-45", "line 1: '2020-13-45' is no value of the tag !!timestamp"),
        ("seed: !other 1", "line 1: could not determine a constructor for the tag '!other'"),
        ("seed: 1\nout: a\nseed: 2", "line 3: the key 'seed' is repeated"),
        ("model: {lr: 1, lr: 2}", "line 1: the key 'lr' is repeated"),
        ("seed: [1", "line 1: expected ',' or ']', but got '<stream end>'"),
        ("? [1, 2]\n: 3", "line 1: found unhashable key"),
        ("a: 1\n---\nb: 2", "line 2: but found another document"),
        ("seed: " + "[" * 1000, "maximum recursion depth exceeded"),
        ("seed: \x00", "unacceptable character #x0000: special characters are not allowed"),
    ],
)
def test_invalid_yaml_is_one_sentence_with_file_and_line(tmp_path, text, reason):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(LitVizError) as caught:
        read_yaml(file)
    message = str(caught.value)
    assert message.startswith(f"the configuration {file} can't be read ({reason}")
    assert message.endswith("): give valid YAML")
    assert "\n" not in message


def test_a_configuration_must_be_a_readable_mapping(tmp_path):
    file = tmp_path / "own.yaml"
    with pytest.raises(LitVizError, match=r"own\.yaml can't be read \(.*No such file"):
        read_yaml(file)
    file.write_bytes(b"\xff")
    with pytest.raises(LitVizError, match=r"own\.yaml can't be read \('utf-8' codec"):
        read_yaml(file)
    for text in ("", "0", "[1, 2]", "text"):
        file.write_text(text)
        with pytest.raises(LitVizError, match=r"own\.yaml must be a mapping of options"):
            read_yaml(file)


def test_values_are_those_of_the_safe_loader():
    text = "base: &base {lr: 1, name: a}\nother: {<<: *base, lr: 2}\nseed: !!int 3\n1: yes\n'1': no"
    expected = {"base": {"lr": 1, "name": "a"}, "other": {"lr": 2, "name": "a"}, "seed": 3, 1: True, "1": False}
    assert parse_yaml(text, "a text") == expected


def test_aliases_of_a_configuration_are_counted(tmp_path):
    """A few hundred bytes of aliases expand to more values than fit in memory."""
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))]
    for content in ("\n".join(lines), "a: &a [*a]"):
        (tmp_path / "bomb.yaml").write_text(content)
        with pytest.raises(LitVizError, match="must have at most 1000000 values with its aliases"):
            read_yaml(tmp_path / "bomb.yaml")
    (tmp_path / "good.yaml").write_text("a: &a [1, 2]\nb: *a")
    assert read_yaml(tmp_path / "good.yaml") == {"a": [1, 2], "b": [1, 2]}
