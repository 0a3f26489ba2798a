"""No reader raises anything but BadInput at a file that is nearly right: the short form of `make fuzz`."""

import pytest
from fuzzing.bounded import fuzz
from fuzzing.readers import READERS

#: Fewer of those that take long for each.
EXAMPLES = {
    "flags": 4,
    "checkpoints": 10,
    "paths": 12,
    "class folders": 20,
    "weights": 20,
    "safetensors": 20,
    "run records": 12,
}


@pytest.mark.parametrize("name", READERS)
def test_nothing_but_bad_input_comes_out(name, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    fuzz(name, EXAMPLES.get(name, 40), derandomize=True)
