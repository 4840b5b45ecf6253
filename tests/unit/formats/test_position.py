import pytest

from litefs.formats.position import ZERO_POS, Checksum, Pos, Txid

CASES = [
    (ZERO_POS, "0000000000000000/0000000000000000"),
    (Pos(txid=Txid(1), checksum=Checksum(0xA8097427E736B9AB)), "0000000000000001/a8097427e736b9ab"),
    (Pos(txid=Txid(2**64 - 1), checksum=Checksum(2**64 - 1)), "ffffffffffffffff/ffffffffffffffff"),
]


@pytest.mark.parametrize(("pos", "text"), CASES)
def test_the_text_form_has_both_numbers_in_full(pos: Pos, text: str) -> None:
    assert str(pos) == text
