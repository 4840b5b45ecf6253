import pytest

from litefs.errors import FormatError
from litefs.formats.position import ZERO_POS, Checksum, Pos, Txid, format_pos, parse_pos

CASES = [
    (ZERO_POS, "0000000000000000/0000000000000000"),
    (Pos(txid=Txid(1), checksum=Checksum(0xA8097427E736B9AB)), "0000000000000001/a8097427e736b9ab"),
    (Pos(txid=Txid(2**64 - 1), checksum=Checksum(2**64 - 1)), "ffffffffffffffff/ffffffffffffffff"),
]


@pytest.mark.parametrize(("pos", "text"), CASES)
def test_text_form_both_ways(pos: Pos, text: str) -> None:
    assert format_pos(pos) == str(pos) == text
    assert parse_pos(text) == pos
    assert parse_pos(text.upper()) == pos


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0000000000000001",
        "0000000000000001/",
        "0000000000000001/a8097427e736b9a",
        "0000000000000001/a8097427e736b9ab0",
        "0000000000000001 a8097427e736b9ab",
        "0000000000000001/a8097427e736b9ag",
        "+000000000000001/a8097427e736b9ab",
        "000000000000000_/a8097427e736b9ab",
        " 000000000000001/a8097427e736b9ab",
        "0000000000000001/a8097427e736b9ab\n",
        "٠000000000000001/a8097427e736b9ab",
    ],
)
def test_refuses_what_is_not_a_position(text: str) -> None:
    with pytest.raises(FormatError):
        parse_pos(text)
