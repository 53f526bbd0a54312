import pytest

from rtskel.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cam1", "cam1"),
        ("Größe 文字 é", "Größe 文字 é"),
        ("\x1b]0;pwned\x07\x1b[2Jcam", r"\x1b]0;pwned\x07\x1b[2Jcam"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("\u202egnp.exe\u2066\u200b", r"\u202egnp.exe\u2066\u200b"),
        ("\u2028", r"\u2028"),
        ("\udcff", r"\udcff"),
        (7, "7"),
    ],
)
def test_printable(text: object, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).isprintable()
