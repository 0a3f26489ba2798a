"""Inputs that are nearly right: a valid file with some bytes changed, plain content with other values in it."""

import pickle

from hypothesis import strategies as st

_PLACES = st.one_of(st.integers(0, 400), st.integers(-400, -1), st.integers(0, 1 << 20))
_BYTES = st.one_of(
    st.binary(max_size=8), st.sampled_from([b"\xff" * 4, b"\0" * 8, b"\x7f\xff\xff\xff", b"-1", b"9" * 30])
)


@st.composite
def mutated(draw, valid):
    """One of some valid files, with bytes overwritten, put in, taken away, repeated, or cut off; or as it is."""
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(_PLACES) % max(1, len(data))
        new = draw(_BYTES)
        kind = draw(st.sampled_from(["over", "over", "over", "in", "out", "again", "flip", "cut"]))
        if kind == "over":
            data[at : at + len(new)] = new
        elif kind == "in":
            data[at:at] = new
        elif kind == "out":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "again":
            data[at:at] = data[at : at + draw(st.integers(1, 200))]
        elif kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at:]
    return bytes(data)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["", "../../x", "~nouser", "a\0b", "\ud800", "x" * 5000, "os.system", "this.X", "few_shot.x.Y"]),
    st.binary(max_size=5),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def changed(draw, content):
    """Plain content in which values have been taken away or replaced by others, at any depth."""
    content = pickle.loads(pickle.dumps(content))
    for _ in range(draw(st.integers(0, 3))):
        part = content
        for _ in range(20):
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(part[key], dict | list) and draw(st.booleans()):
                part = part[key]
                continue
            if draw(st.booleans()):
                part[key] = draw(VALUES)
            else:
                del part[key]
            break
    return content
