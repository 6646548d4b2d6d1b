"""How the labels of a batch travel: one int32 array [B, W]. A step reads from it what is alike. No JAX.

The first C columns are codes, one per condition, -1 where a label is missing. Categories: equal codes are equal values.
Numbers (numeric, rank, ordinal): differences of codes are gaps. Sets: any code; what they share follows the columns of
codes, `n_words(B)` columns per condition of sets, in their order. Bit j % 32 of word j // 32 in row i is 1 if the items
i and j share a member.
"""

UNITS = 1 << 20  # the clear difference of a numeric or rank condition, in codes; whole numbers keep gaps exact


def least_difference(kind: str) -> int:
    """The least difference between the gaps of a negative and a positive to their anchor, in codes."""
    # Four roundings by half a unit may shorten a whole step by two. An ordinal code is the position of the level.
    return 1 if kind == "ordinal" else UNITS - 2


def n_words(n_rows: int) -> int:
    """Words of 32 bits for one bit per row of a batch."""
    return -(-n_rows // 32)
