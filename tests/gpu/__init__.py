"""Tests that need a GPU."""

import pytest

MARKS = [
    pytest.mark.gpu,
    # torch 2.11 compiles by what it calls deprecated itself, and looks at `.grad` of any tensor
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]
